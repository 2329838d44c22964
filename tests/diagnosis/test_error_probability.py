import numpy as np
import pytest

from effdet.diagnosis.review.error_probability import HIGHEST, error_probability, fit_logistic


def mixture(rng, right, errors, apart=3.0, simulated=2000):
    """Evidence of right labels and errors, which is which, and evidence of simulated errors."""
    values = np.concatenate([rng.normal(0, 1, right), rng.normal(apart, 1, errors)])
    return values, np.arange(right + errors) >= right, rng.normal(apart, 1, simulated)


def test_the_regression_gives_the_log_odds_of_groups():
    # 30 of 100 in one group, 80 of 100 in the other
    group = np.repeat([0.0, 1.0], 100)
    target = np.concatenate([np.arange(100) < 30, np.arange(100) < 80])
    offset, slope = fit_logistic(np.column_stack([np.ones(200), group]), target, np.full(2, 1e-9))
    assert offset == pytest.approx(np.log(30 / 70), abs=1e-6)
    assert offset + slope == pytest.approx(np.log(80 / 20), abs=1e-6)


def test_the_regression_has_a_solution_where_the_groups_separate():
    features = np.column_stack([np.ones(20), np.arange(20.0)])
    weights = fit_logistic(features, np.arange(20) > 9, np.ones(2))
    assert np.isfinite(weights).all()
    assert weights[1] > 0


@pytest.mark.parametrize(("right", "errors"), [(2000, 200), (2000, 40), (500, 100)])
def test_the_probabilities_sum_to_the_number_of_errors(right, errors):
    values, _, simulated = mixture(np.random.default_rng(0), right, errors)
    assert error_probability(values, simulated).sum() == pytest.approx(errors, rel=0.35)


def test_of_the_rows_with_a_probability_about_that_fraction_are_errors():
    values, is_error, simulated = mixture(np.random.default_rng(1), 20000, 2000, 2.0, simulated=20000)
    probability = error_probability(values, simulated)
    for low, high in ((0.1, 0.4), (0.4, 0.7), (0.7, 1.0)):
        chosen = (probability >= low) & (probability < high)
        assert chosen.sum() > 100
        assert is_error[chosen].mean() == pytest.approx(probability[chosen].mean(), abs=0.15)


def test_the_probability_never_falls_with_the_evidence():
    values, _, simulated = mixture(np.random.default_rng(2), 300, 30)
    probability = error_probability(values, simulated)[np.argsort(values)]
    assert (np.diff(probability) >= 0).all()
    assert probability.max() <= HIGHEST


def test_equal_evidence_gives_equal_probability():
    values = np.array([2.0, 2.0, 2.0, 0.0, 0.0, -1.0])
    probability = error_probability(values, np.array([2.0, 2.0, 0.0]))
    assert len(set(probability[:3])) == 1
    assert len(set(probability[3:5])) == 1


def test_a_single_suspicious_label_is_not_certain():
    values = np.concatenate([[9.0], np.random.default_rng(0).normal(0, 1, 500)])
    assert error_probability(values, np.linspace(7, 12, 100)).max() <= 0.5


def test_without_candidates_or_simulated_errors_nothing_is_probable():
    assert error_probability(np.empty(0), np.ones(3)).shape == (0,)
    assert not error_probability(np.ones(3), np.empty(0)).any()
    assert not error_probability(np.ones(3), np.full(5, -np.inf)).any()


def test_more_errors_than_usual_are_damped():
    # All labels look like simulated errors, as with a model that detects nothing.
    values = np.zeros(1000)
    assert error_probability(values, np.zeros(100)).mean() > 0.9
    assert error_probability(values, np.zeros(100), many=50).sum() <= 50
