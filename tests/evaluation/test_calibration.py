import numpy as np
import pytest

from effdet.evaluation.calibration import calibration, fit_temperature, with_temperature
from effdet.evaluation.matching import Matches


def matches_of(scores, correct, ignored=None):
    """Matches of detections of one class."""
    scores, correct = np.asarray(scores, float), np.asarray(correct, bool)
    ignored = np.zeros_like(correct) if ignored is None else np.asarray(ignored, bool)
    order = np.argsort(-scores, kind="stable")
    zeros, wide = np.zeros(len(order), int), (1, 1, len(order))
    return Matches(
        rows=order,
        images=zeros,
        labels=zeros,
        scores=scores[order],
        ranks=zeros,
        objects=np.full(wide[1:], -1),
        correct=correct[order].reshape(wide),
        ignored=ignored[order].reshape(wide),
        counted=np.ones((1, 1), bool),
        first=np.array([0, len(order)]),
    )


def drawn(temperature, count=20000, seed=0):
    """Detections that are correct with the probability that their score has after calibration."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.05, 0.99, count)
    correct = rng.random(count) < with_temperature(scores, temperature)
    return matches_of(scores, correct), scores, correct


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_a_sample_is_recovered(temperature):
    matches, *_ = drawn(temperature)
    assert fit_temperature(matches) == pytest.approx(temperature, rel=0.1)
    result = calibration(matches)
    assert result["error_with_temperature"] < 0.02
    assert result["error_with_temperature"] <= result["error"] + 0.005


@pytest.mark.parametrize("seed", range(5))
def test_no_temperature_near_it_has_a_higher_likelihood(seed):
    matches, scores, correct = drawn(3.0 ** (seed - 2), 60, seed)

    def likelihood(temperature):
        mapped = with_temperature(scores, temperature)
        return np.log(np.where(correct, mapped, 1 - mapped)).sum()

    fitted = fit_temperature(matches)
    assert all(likelihood(fitted) >= likelihood(other) for other in (1.0, 0.97 * fitted, 1.03 * fitted))


def test_bins_and_error_are_those_of_a_slow_count():
    matches, scores, correct = drawn(0.5, 500)
    result = calibration(matches)
    error = 0.0
    for row in result["bins"]:
        inside = (scores >= row["low"]) & (scores < row["high"])
        assert row["count"] == inside.sum()
        assert row["score"] == pytest.approx(scores[inside].mean(), abs=1e-5)
        assert row["precision"] == pytest.approx(correct[inside].mean(), abs=1e-5)
        error += inside.sum() * abs(scores[inside].mean() - correct[inside].mean()) / len(scores)
    assert sum(row["count"] for row in result["bins"]) == len(scores)
    assert result["error"] == pytest.approx(error, abs=1e-5)


def test_detections_of_low_score_and_in_crowds_do_not_count():
    correct = np.array([True, False] * 20 + [True] * 10 + [False] * 10)
    scores = np.array([0.7] * 40 + [0.9] * 10 + [0.01] * 10)
    crowd = np.array([False] * 40 + [True] * 10 + [False] * 10)
    matches = matches_of(scores, correct & ~crowd, crowd)
    assert [row["count"] for row in calibration(matches)["bins"]] == [40]


def test_sets_that_cannot_be_fitted_have_no_temperature():
    assert calibration(matches_of([], [])) is None
    assert calibration(matches_of([0.01], [True])) is None
    for correct in ([True] * 50, [False] * 50, [True] * 5 + [False] * 5):
        result = calibration(matches_of([0.6] * len(correct), correct))
        assert result["temperature"] is result["error_with_temperature"] is None
        assert result["error"] >= 0


def test_calibrated_scores_keep_their_order_and_go_back():
    scores = np.linspace(0, 1, 1001)
    mapped = with_temperature(scores, 0.4)
    assert (np.diff(mapped) >= 0).all()
    assert mapped[0] == pytest.approx(0)
    assert mapped[-1] == pytest.approx(1)
    np.testing.assert_allclose(with_temperature(mapped, 1 / 0.4)[1:-1], scores[1:-1], rtol=1e-6)
