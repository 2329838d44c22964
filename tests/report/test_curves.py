import json

import numpy as np
import pytest

from effdet.data.images import read_image
from effdet.errors import DataError
from effdet.report import curves
from effdet.report.curves import draw_curves, read_log

WHITE = 255


def record(step, **more):
    return {"step": step, "epoch": 1, "seconds": step / 2, "learning_rate": 0.1, **more}


def losses_at(step):
    loss = 3.0 / step
    return record(
        step,
        loss=loss,
        class_loss=loss / 2,
        box_loss=loss / 100,
        gradient_norm=2.0,
        images_per_second=9.0,
        data_wait=0.1,
    )


def evaluation(step, **metrics):
    return {"step": step, "epoch": 1, "seconds": step / 2, **metrics}


def write_log(folder, records, end=""):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records) + end)
    return folder


def picture_of(folder):
    assert draw_curves(folder) == folder / "curves.png"
    return read_image(folder / "curves.png")


def test_the_picture_is_drawn_from_the_log_each_time(tmp_path):
    write_log(tmp_path, [losses_at(1)])
    first = picture_of(tmp_path)
    write_log(tmp_path, [*map(losses_at, range(1, 60)), evaluation(59, AP=0.4, AP50=0.6, AP75=-1.0)])
    second = picture_of(tmp_path)
    assert first.shape == second.shape == (1200, 1300, 3)
    assert (first != second).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [evaluation(10, top1=0.5, top5=1.0, AP=-1.0)],
        [record(20, loss=0.0, gradient_norm=0.0), record(40, loss=0.0)],
    ],
)
def test_whatever_has_been_logged_can_be_drawn(tmp_path, records):
    assert (picture_of(write_log(tmp_path, records)) < WHITE).any()


@pytest.mark.parametrize("name", [r"$\frac{1}$", r"$x_{$", "\udcff", "a\x1b[31m"])
def test_the_name_of_the_folder_may_be_any_text(tmp_path, name):
    assert picture_of(write_log(tmp_path / name, [losses_at(1)])).any()


def test_an_incomplete_last_line_is_skipped(tmp_path):
    write_log(tmp_path, [losses_at(1), evaluation(1, AP=0.5)], end='{"step": 2, "epo')
    assert read_log(tmp_path / "log.jsonl") == ([losses_at(1)], [evaluation(1, AP=0.5)])


def test_of_a_long_log_all_evaluations_and_every_third_training_record_are_read(tmp_path):
    records = [
        one for step in range(1, 25_001) for one in (losses_at(step), *[evaluation(step, AP=0.5)] * (step % 50 == 0))
    ]
    training, evaluations = read_log(write_log(tmp_path, records) / "log.jsonl")
    assert [one["step"] for one in training] == [*range(1, 25_001, 3)]
    assert len(evaluations) == 500


def test_a_missing_or_foreign_log_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"log\.jsonl: cannot be read"):
        draw_curves(tmp_path)
    (tmp_path / "log.jsonl").write_text("step,loss\n1,2\n")
    with pytest.raises(DataError, match="not a log of a run"):
        draw_curves(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "[]",
        '{"step": 1}',
        '{"step": "1", "epoch": 1, "seconds": 1}',
        '{"step": NaN, "epoch": 1, "seconds": 1}',
    ],
)
def test_a_line_that_is_no_record_is_refused(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="not a log of a run"):
        read_log(tmp_path / "log.jsonl")


def test_groups_keep_mean_and_range():
    values = np.random.default_rng(0).random(1234)
    steps, mean, low, high = curves._grouped(np.arange(1234.0), values)
    groups = [values[first : first + 3] for first in range(0, 1234, 3)]
    assert np.allclose(mean, [group.mean() for group in groups])
    assert np.array_equal(low, [group.min() for group in groups])
    assert np.array_equal(high, [group.max() for group in groups])
    assert steps[0] == 1
    assert steps[-1] == 1233


def test_the_running_mean_is_centered():
    values = np.random.default_rng(0).random(400)
    mean = curves._running_mean(values)
    assert mean[0] == pytest.approx(values[0])
    assert mean[1] == pytest.approx(values[:3].mean())
    assert mean[200] == pytest.approx(values[195:206].mean())
    assert mean[-1] == pytest.approx(values[-1])
    assert curves._running_mean(np.full(50, 2.5)) == pytest.approx(np.full(50, 2.5))
