import pytest

from effdet.evaluation.seed_noise import (
    NOISE_PER_CHANGE,
    SETTLED_NOISE,
    UNKNOWN_NOISE,
    Noise,
    assumed_noise,
    late_change,
    noise_notes,
    seed_noise,
)


def evaluations(*values, every=100):
    return [{"step": every * number, "AP": value} for number, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.1, 0.3, 0.4, 0.5, 0.52, 0.55), 0.05),  # of 6 evaluations the last third begins at the fourth
        ((0.1, 0.3, 0.4, 0.5, 0.45, 0.47), 0.05),  # falling counts too
        ((0.1, 0.3, 0.4), 0.1),
        ((0.1, 0.3), 0.2),  # the last evaluation before the last third is in the middle
        ((0.3, -1, 0.35, 0.36), 0.06),  # -1 is no AP
        ((0.3, None, float("nan"), 0.36), 0.06),
        ((0.4,), None),
        ((), None),
        ((-1, -1, -1), None),
    ],
)
def test_the_late_change_is_the_range_of_ap_from_the_last_third_on(values, expected):
    change = late_change(evaluations(*values))
    assert change == (expected if expected is None else pytest.approx(expected))


def test_evaluations_in_the_last_third_alone_do_not_show_the_change():
    assert late_change([{"step": 90, "AP": 0.3}, {"step": 100, "AP": 0.3}]) is None


def test_evaluations_of_a_classifier_have_no_late_change():
    assert late_change([{"step": 50, "top1": 0.3}, {"step": 100, "top1": 0.4}]) is None


def test_the_assumed_noise_grows_with_the_change_and_is_never_zero():
    assert assumed_noise(0.0) == SETTLED_NOISE
    assert assumed_noise(0.12) == pytest.approx(NOISE_PER_CHANGE * 0.12)
    assert assumed_noise(None) == UNKNOWN_NOISE


def test_enough_measured_runs_replace_the_assumption():
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.9]
    group = [0, 1, 2, 3, 4]
    expected = Noise(pytest.approx(0.15811388), 4)  # the standard deviation of five numbers 0.1 apart
    assert seed_noise(values, [group], [0.034] * 6) == [expected] * 6
    assert seed_noise(values, [group], None) == [expected] * 6


def test_few_measured_runs_are_pooled_with_the_assumption_of_each_run():
    first, second, _ = seed_noise([0.1, 0.3, 0.5], [[0, 1]], [0.1, 0.0, 0.0])
    assert first == Noise(pytest.approx(((0.02 + 3 * 0.1**2) / 4) ** 0.5), 4)
    assert second == Noise(pytest.approx((0.02 / 4) ** 0.5), 4)
    assert seed_noise([0.1, 0.3, 0.5], [[0, 1]], None) == []


def test_without_measured_runs_the_assumption_stands_alone_or_there_is_none():
    assert seed_noise([0.1, 0.3], [], [0.01, 0.02]) == [Noise(pytest.approx(0.01), 4), Noise(pytest.approx(0.02), 4)]
    assert seed_noise([0.1, 0.3], [], None) == []
    assert seed_noise([float("nan")] * 5, [[0, 1, 2, 3, 4]], None) == []


def test_notes_name_the_noise_of_each_run_and_why_it_is_assumed():
    noises = [Noise(SETTLED_NOISE, 4), Noise(0.03, 4), Noise(UNKNOWN_NOISE, 4)]
    head, *lines = noise_notes(["a", "b", "c"], [0.007, 0.06, None], [], noises)
    assert "train a recipe again with other seeds" in head
    assert lines == [
        "a: 0.5 points, because AP had settled: by 0.7 points in the last third of its training.",
        "b: 3.0 points, because AP was still changing: by 6.0 points in the last third of its training.",
        "c: 3.4 points, because AP before the last third of its training is unknown (set eval.every_epochs).",
    ]
