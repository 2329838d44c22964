import io
import re

import pytest
from rich.console import Console

from effdet.losses import ClassificationLoss, DetectionLoss
from effdet.training.records.progress import ProgressBar, duration_text, metrics_text
from effdet.types import DetectionLossOptions

RECORD = {
    "step": 1,
    "epoch": 1,
    "seconds": 0.5,
    "learning_rate": 1e-3,
    "loss": 2.0,
    "class_loss": 1.0,
    "box_loss": 0.02,
    "gradient_norm": 3.0,
    "images_per_second": 12.5,
    "data_wait": 0.031,
}
WEIGHTS = {"class_loss": 1.0, "box_loss": 50.0}


def in_a_file():
    """A console that writes to a file, and the file."""
    output = io.StringIO()
    return Console(file=output, width=40, soft_wrap=True), output


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test advances: clock[0] is the time."""
    now = [100.0]
    monkeypatch.setattr("effdet.training.records.progress.time.perf_counter", lambda: now[0])
    return now


# Lines and the bar


def test_a_file_gets_one_line_per_record_and_no_bar():
    console, output = in_a_file()
    with ProgressBar(console, WEIGHTS, total_steps=10, epochs=2, step=0) as progress:
        progress.advance(1, 1, 0.5)
        progress.show_record(RECORD)
    assert output.getvalue() == (
        "computing the first step\n"
        "step 1 of 10, epoch 1 of 2  loss 2.000 = class 1.000 + box 1.000  lr 1.00e-03  12.5 images/s\n"
    )


def test_a_terminal_of_80_columns_gets_a_bar_of_two_lines():
    output = io.StringIO()
    console = Console(file=output, width=80, height=20, force_terminal=True, soft_wrap=True)
    with ProgressBar(console, WEIGHTS, total_steps=123456, epochs=300, step=4) as progress:
        progress.advance(5, 1, 1.0)
        progress.advance(6, 1, 2.0)
        progress.show(RECORD)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\r", output.getvalue()).replace("\n", "\r").split("\r")
    assert max(map(len, lines)) <= 80
    assert any(line.endswith("step 6 of 123456, epoch 1 of 300, ETA 1 d 10 h") for line in lines)
    assert "loss 2.000 = class 1.000 + box 1.000  lr 1.00e-03  12.5 images/s" in lines


@pytest.mark.parametrize("iou", [None, "giou"])
def test_the_terms_that_are_shown_add_up_to_the_loss(iou):
    criterion = DetectionLoss(DetectionLossOptions(box_weight=40.0, iou=iou, iou_weight=2.5))
    terms = {"class_loss": 0.8137, "box_loss": 0.01234, "iou_loss": 0.4321}
    terms = {name: terms[name] for name in criterion.names[1:]}
    total = terms["class_loss"] + 40 * terms["box_loss"] + 2.5 * terms.get("iou_loss", 0)
    text = metrics_text({**RECORD, **terms, "loss": total}, criterion.term_weights)
    shown, *parts = [float(number) for number in re.findall(r"[a-z] (\d\.\d+)", text.split("  ")[0])]
    assert shown == pytest.approx(total, abs=1e-3)
    assert sum(parts) == pytest.approx(shown, abs=2e-3)
    assert len(parts) == len(terms)


def test_small_losses_have_more_digits():
    assert metrics_text({**RECORD, "loss": 0.01234567}, {}).startswith("loss 0.01235  lr")


def test_a_loss_without_terms_is_printed_alone():
    assert metrics_text(RECORD, ClassificationLoss().term_weights) == "loss 2.000  lr 1.00e-03  12.5 images/s"


def test_only_a_long_data_wait_is_printed():
    assert metrics_text({**RECORD, "data_wait": 0.34}, WEIGHTS).endswith("images/s  data wait 34%")


# When it is shown


def test_metrics_are_due_after_the_first_step_and_every_minute_in_a_file(clock):
    console, _ = in_a_file()
    progress = ProgressBar(console, WEIGHTS, total_steps=10, epochs=2, step=0)
    assert progress.is_due()
    progress.show(RECORD)
    assert not progress.is_due()
    clock[0] += 59
    assert not progress.is_due()
    clock[0] += 1
    assert progress.is_due()


# The remaining time


def test_the_remaining_time_is_unknown_after_the_first_step():
    console, _ = in_a_file()
    progress = ProgressBar(console, WEIGHTS, total_steps=100, epochs=1, step=10)
    assert progress.remaining_seconds() is None
    progress.advance(11, 1, 30.0)  # with the start of the workers
    assert progress.remaining_seconds() is None
    progress.advance(13, 1, 34.0)
    assert progress.remaining_seconds() == pytest.approx(87 * 2.0)


def test_the_remaining_time_has_the_evaluations_that_follow():
    console, _ = in_a_file()
    evaluations = []
    progress = ProgressBar(console, WEIGHTS, 30, 3, 0, evaluations, lambda step: 3 - step // 10)
    progress.advance(1, 1, 1.0)
    progress.advance(11, 2, 11.0)
    assert progress.remaining_seconds() == pytest.approx(19)
    evaluations.extend([4.0, 6.0])
    assert progress.remaining_seconds() == pytest.approx(19 + 2 * 5)


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0.2, "0 s", "0 s"),
        (59.7, "1 min", "1 min"),
        (90, "1 min 30 s", "1 min 30 s"),
        (723, "12 min 3 s", "12 min"),
        (3599, "59 min 59 s", "1 h"),
        (12_000, "3 h 20 min", "3 h 20 min"),
        (187_200, "2 d 4 h", "2 d 4 h"),
    ],
)
def test_durations_have_two_units(seconds, exact, rough):
    assert duration_text(seconds) == exact
    assert duration_text(seconds, rough=True) == rough


# Advice on the data wait


def advised(*records, step=0):
    """What a progress bar prints besides the records (step, seconds, data wait)."""
    output = io.StringIO()
    console = Console(file=output, width=200)

    def advise(wait):
        return f"{wait:.2f}" if wait > 0.2 else None

    with ProgressBar(console, {}, 1000, 10, step, advise=advise) as progress:
        for done, seconds, data_wait in records:
            progress.show_record(
                {**RECORD, "step": done, "seconds": seconds, "data_wait": data_wait, "images_per_second": 1}
            )
    return [line for line in output.getvalue().splitlines() if not line.startswith(("step", "computing"))]


def test_a_long_data_wait_is_reported_once():
    assert advised((20, 10.0, 0.5), (40, 20.0, 0.5), (60, 30.0, 0.6), (80, 40.0, 0.7)) == ["0.50"]


def test_the_start_of_the_workers_does_not_count():
    assert advised((20, 10.0, 0.9), (40, 20.0, 0.1), step=0) == []
    assert advised((120, 10.0, 0.9), (140, 20.0, 0.1), step=100) == []


def test_a_few_steps_are_not_enough_for_advice():
    assert advised((5, 10.0, 0.9), (10, 11.0, 0.9), (15, 12.0, 0.9)) == []
    assert advised((5, 10.0, 0.9), (10, 11.0, 0.1), (15, 12.0, 0.1), (20, 13.0, 0.7), (25, 14.0, 0.7)) == ["0.40"]


def test_half_a_minute_is_enough_for_advice():
    assert advised((1, 10.0, 0.9), (2, 41.0, 0.3)) == ["0.30"]


def test_a_data_wait_that_begins_later_is_reported_then():
    assert advised((20, 10.0, 0.1), (40, 20.0, 0.1), (60, 30.0, 0.8)) == ["0.80"]
