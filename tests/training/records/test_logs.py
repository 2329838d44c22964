import csv
import json
import re

import pytest

from effdet.errors import DataError
from effdet.training.records.logs import Meter, RunLog, data_wait_advice, usable_cores

RECORD = {"step": 1, "epoch": 1, "seconds": 0.5, "learning_rate": 1e-3, "loss": 2.0, "class_loss": 1.0}
METRICS = {"step": 1, "epoch": 1, "seconds": 0.5, "AP": 0.25}
LOSSES = ("loss", "class_loss", "box_loss")


def log_in(folder):
    return RunLog(folder, LOSSES, ("mixup",), ("AP", "AP50"))


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test advances: clock[0] is the time."""
    now = [100.0]
    monkeypatch.setattr("effdet.training.records.logs.time.perf_counter", lambda: now[0])
    return now


def test_the_log_has_one_line_of_json_per_record(tmp_path):
    log = log_in(tmp_path)
    log.write(RECORD)
    log.write(METRICS)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [RECORD, METRICS]


def test_the_csv_has_one_header_and_empty_values_for_missing_keys(tmp_path):
    log = log_in(tmp_path)
    log.write(RECORD)
    log.write(METRICS)
    with (tmp_path / "log.csv").open(newline="") as file:
        header, first, second = csv.reader(file)
    assert header == [
        *("step", "epoch", "seconds", "learning_rate", "loss", "class_loss", "box_loss", "gradient_norm", "mixup"),
        *("images_per_second", "data_wait", "AP", "AP50"),
    ]
    assert dict(zip(header, first, strict=True))["loss"] == "2.0"
    assert dict(zip(header, second, strict=True)) == {
        **dict.fromkeys(header, ""),
        **{k: str(v) for k, v in METRICS.items()},
    }


def test_a_resumed_run_continues_both_files(tmp_path):
    log_in(tmp_path).write(RECORD)
    log_in(tmp_path).write({**RECORD, "step": 2})
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]
    table = (tmp_path / "log.csv").read_text().splitlines()
    assert len(table) == 3
    assert sum(line.startswith("step,") for line in table) == 1


def test_a_resumed_run_drops_the_lines_after_its_step(tmp_path):
    log = RunLog(tmp_path, ("loss",), (), ("AP",))
    for step in (1, 2, 10):
        log.write({"step": step, "learning_rate": 0.1, "loss": 0.5})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("1")  # the beginning of 11
    log.rewind(2, evaluated=False)
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    assert [line.partition(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()] == ["step", "1", "2"]
    RunLog(tmp_path / "nowhere").rewind(2, evaluated=True)


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_resumed_run_drops_an_evaluation_that_is_made_again(tmp_path, evaluated):
    log = RunLog(tmp_path, ("loss",), (), ("AP",))
    for record in ({"learning_rate": 0.1, "loss": 0.5}, {"AP": 0.25}):
        log.write({"step": 1, "epoch": 1, "seconds": 0.5, **record})
    log.rewind(1, evaluated)
    assert [record.get("AP") for record in records(tmp_path)] == [None, 0.25][: 1 + evaluated]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2 + evaluated


def test_a_csv_without_its_header_gets_a_new_one(tmp_path):
    (tmp_path / "log.csv").write_text("step,epo")
    log = RunLog(tmp_path, ("loss",))
    log.rewind(2, evaluated=True)
    log.write({"step": 3, "loss": 0.5})
    assert (tmp_path / "log.csv").read_text().startswith("step,epoch,seconds,learning_rate,loss")


def test_a_resumed_run_may_have_new_columns(tmp_path):
    RunLog(tmp_path, ("loss", "box_loss")).write({"step": 1, "loss": 0.5, "box_loss": 0.25})
    log = RunLog(tmp_path, ("loss", "iou_loss"))
    log.rewind(1, evaluated=True)
    log.write({"step": 2, "loss": 0.75, "iou_loss": 0.125})
    with (tmp_path / "log.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["loss"], first["box_loss"], first["iou_loss"]) == ("0.5", "0.25", "")
    assert (second["loss"], second["box_loss"], second["iou_loss"]) == ("0.75", "", "0.125")


@pytest.mark.parametrize(("name", "line"), [("log.jsonl", '{"step": 2, "lo'), ("log.csv", "two,1,0.5")])
def test_the_error_for_a_broken_line_has_its_number(tmp_path, name, line):
    log = RunLog(tmp_path, ("loss",))
    log.write({"step": 1, "loss": 0.5})
    with (tmp_path / name).open("a") as file:
        file.write(line + "\n")
    number = len((tmp_path / name).read_text().splitlines())
    with pytest.raises(DataError, match=rf"{name}: line {number} is not a log record \({re.escape(repr(line))}\)"):
        log.rewind(2, evaluated=True)


def test_a_metric_without_a_column_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="surprise"):
        log_in(tmp_path).write({"surprise": 1.0})


def test_the_meter_gives_speed_and_data_wait_since_the_last_call(clock):
    def batches():
        for batch in ("first", "second"):
            clock[0] += 1  # a batch takes a second to load
            yield batch

    meter = Meter(0.0)
    for _ in meter.time_loading(batches()):
        clock[0] += 3  # and three seconds to train on
        meter.count(8)
    assert meter.read() == pytest.approx((2.0, 0.25))
    clock[0] += 4
    meter.count(4)
    assert meter.read() == pytest.approx((1.0, 0.0))


def test_the_meter_continues_from_the_duration_before_a_resume(clock):
    meter = Meter(50.0)
    clock[0] += 7
    assert meter.count(1) == pytest.approx(57)


def test_pauses_count_neither_as_duration_nor_against_the_speed(clock):
    meter = Meter(0.0)
    clock[0] += 2
    meter.count(4)
    with meter.paused():
        clock[0] += 1000
    assert meter.count(0) == pytest.approx(2)
    assert meter.read() == pytest.approx((2.0, 0.0))


def test_a_peek_leaves_the_measurement_as_it_is(clock):
    meter = Meter(0.0)
    clock[0] += 2
    meter.count(8)
    assert meter.peek() == meter.peek() == meter.read() == pytest.approx((4.0, 0.0))
    clock[0] += 1
    assert meter.peek() == (0.0, 0.0)


# Advice on the data wait


def test_there_is_no_advice_up_to_a_data_wait_of_a_fifth():
    assert data_wait_advice(0.0, workers=0, cores=8, cache="none") is None
    assert data_wait_advice(0.2, workers=0, cores=8, cache="none") is None


@pytest.mark.parametrize(
    ("data_wait", "workers", "enough"),
    [
        (0.21, 0, 1),
        (0.75, 0, 3),  # loading takes three times as long as computing
        (0.75, 2, 8),  # two workers take four times as long as computing
        (0.25, 7, 8),
        (0.9, 2, 8),  # no more than there are cores
        (1.0, 1, 8),
    ],
)
def test_the_advice_is_the_number_of_workers_that_keeps_up(data_wait, workers, enough):
    text = data_wait_advice(data_wait, workers, cores=8, cache="none")
    assert f"{data_wait:.0%} of the time" in text
    assert f"raise data.workers from {workers} to {enough} (8 CPU cores are available)" in text


def test_the_advice_is_a_cache_or_less_work_if_all_cores_are_used():
    assert "data.cache=memory or data.cache=disk" in data_wait_advice(0.5, workers=8, cores=8, cache="none")
    text = data_wait_advice(0.5, workers=9, cores=8, cache="disk")
    assert "cache" not in text
    assert "smaller images" in text


def test_there_is_at_least_one_usable_core():
    assert usable_cores() >= 1
