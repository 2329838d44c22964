import math

import pytest
import torch

from effdet.exporting.comparing import TOLERANCES, Difference, are_predictions, largest_differences, match_detections
from effdet.structures import Detections
from effdet.types import PostprocessOptions

STRICT = TOLERANCES["float32"]
OPTIONS = PostprocessOptions(score_threshold=0.1, max_detections=5)


def rows(*values):
    """Detections from (x, score, label): boxes of 100 pixels at x."""
    table = torch.tensor([(x, 0, x + 100, 100, score, label) for x, score, label in values]).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def match(expected, actual, candidates=None, options=OPTIONS, lowest=-math.inf):
    pool = candidates or expected
    logits = torch.full((len(pool), 3), -100.0)
    logits[range(len(pool)), pool.labels] = torch.logit(pool.scores)
    possible = are_predictions(actual, logits, pool.boxes, STRICT)
    matching, _ = match_detections(expected, actual, possible, lowest, options, STRICT)
    return matching.compared, matching.equal, matching.near_ties, matching.different


THREE = ((0, 0.9, 0), (200, 0.7, 1), (400, 0.5, 2))


def test_equal_detections_in_another_order_are_equal():
    assert match(rows(*THREE), rows(*reversed(THREE))) == (6, 6, 0, 0)
    assert match(rows(), rows()) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "changed",
    [
        (0, 0.9 * 0.99, 0),  # a score of 1 % less
        (0, 0.9, 1),  # another class
        (0.6, 0.9, 0),  # IoU 0.988
    ],
)
def test_another_score_class_or_box_is_different(changed):
    assert match(rows(*THREE), rows(changed, *THREE[1:])) == (6, 4, 0, 2)


def test_rounding_of_scores_and_boxes_is_equal():
    assert match(rows(*THREE), rows((0.2, 0.9003, 0), *THREE[1:])) == (6, 6, 0, 0)


def test_a_missing_detection_is_different_and_an_additional_one_too():
    assert match(rows(*THREE), rows(*THREE[1:])) == (5, 4, 0, 1)
    assert match(rows(*THREE[1:]), rows(*THREE), candidates=rows(*THREE)) == (5, 4, 0, 1)


def test_a_detection_at_the_score_threshold_may_be_missing():
    assert match(rows(*THREE, (600, 0.1001, 0)), rows(*THREE)) == (7, 6, 1, 0)
    assert match(rows(*THREE, (600, 0.103, 0)), rows(*THREE)) == (7, 6, 0, 1)


def test_an_additional_detection_at_the_threshold_must_be_a_candidate():
    extra = rows(*THREE, (600, 0.1001, 0))
    assert match(rows(*THREE), extra, candidates=extra) == (7, 6, 1, 0)
    assert match(rows(*THREE), extra, candidates=rows(*THREE)) == (7, 6, 0, 1)


def test_at_the_most_detections_the_last_ones_may_change_places():
    four = [(200 * k, 0.9 - 0.1 * k, 0) for k in range(4)]
    both = rows(*four, (1000, 0.4001, 0), (1200, 0.4, 0))
    assert match(rows(*four, (1000, 0.4001, 0)), rows(*four, (1200, 0.4, 0)), both) == (10, 8, 2, 0)
    clear = rows(*four, (1000, 0.45, 0), (1200, 0.4, 0))
    assert match(rows(*four, (1000, 0.45, 0)), rows(*four, (1200, 0.4, 0)), clear) == (10, 8, 1, 1)


def test_where_candidates_are_cut_the_last_ones_may_change_places():
    both = rows(*THREE, (600, 0.4001, 0), (800, 0.4, 0))
    expected, actual = rows(*THREE, (600, 0.4001, 0)), rows(*THREE, (800, 0.4, 0))
    lowest = math.log(0.4 / 0.6)
    assert match(expected, actual, both) == (8, 6, 0, 2)
    assert match(expected, actual, both, lowest=lowest) == (8, 6, 2, 0)


def test_of_two_overlapping_boxes_of_equal_scores_either_may_stay():
    both = rows((0, 0.5001, 0), (20, 0.5, 0))
    assert match(rows((0, 0.5001, 0)), rows((20, 0.5, 0)), both) == (2, 0, 2, 0)


def test_of_two_overlapping_boxes_the_lower_score_must_not_stay():
    both = rows((0, 0.6, 0), (20, 0.5, 0))
    assert match(rows((0, 0.6, 0)), rows((20, 0.5, 0)), both) == (2, 0, 0, 2)


def test_a_box_whose_iou_is_at_the_threshold_may_stay_or_go():
    # 100 pixels wide and 33 apart: IoU 67 / 133 = 0.504; 20 apart: 0.667.
    near, far = rows((0, 0.9, 0), (33, 0.5, 0)), rows((0, 0.9, 0), (20, 0.5, 0))
    first = rows((0, 0.9, 0))
    assert match(first, near, near) == (3, 2, 1, 0)
    assert match(near, first) == (3, 2, 1, 0)
    assert match(first, far, far) == (3, 2, 0, 1)
    assert match(far, first) == (3, 2, 0, 1)


def test_boxes_of_other_classes_decide_only_about_nms_across_classes():
    both = rows((0, 0.9, 0), (33, 0.5, 1))
    agnostic = PostprocessOptions(score_threshold=0.1, nms="agnostic")
    assert match(both, rows((0, 0.9, 0))) == (3, 2, 0, 1)
    assert match(both, rows((0, 0.9, 0)), options=agnostic) == (3, 2, 1, 0)


def test_what_a_near_tie_suppresses_is_a_near_tie_too():
    """Without A, B stays, and then C goes, which A alone had let stay."""
    a, b, c = (0, 0.1001, 0), (20, 0.1, 0), (45, 0.1, 0)
    options = PostprocessOptions(score_threshold=0.05, max_detections=5)
    pool = rows(a, b, c)
    assert match(rows(a, c), rows(b), pool, options) == (3, 0, 3, 0)


@pytest.mark.parametrize(
    ("actual", "relative"),
    [([1.0, -4.0], 0.0), ([1.04, -4.0], 0.01), ([1.0, math.nan], math.inf), ([1.0], math.inf)],
)
def test_differences_are_relative_to_the_largest_value(actual, relative):
    (difference,) = largest_differences({"x": torch.tensor([1.0, -4.0])}, {"x": torch.tensor(actual)}).values()
    assert difference.relative == pytest.approx(relative, abs=1e-6)
    assert Difference(0.0, 0.0) == largest_differences({"x": torch.zeros(2)}, {"x": torch.zeros(2)})["x"]


def test_detections_whose_scores_are_all_one_may_be_chosen_in_another_order():
    candidates = rows(*((300 * k, 1.0, 0) for k in range(4)))
    first, second = candidates[:2], candidates[2:]
    assert match(first, second, candidates, PostprocessOptions(max_detections=2)) == (4, 0, 4, 0)


def test_scores_next_to_one_that_differ_by_rounding_are_equal():
    assert match(rows((0, 1 - 1.2e-7, 0)), rows((0, 1.0, 0))) == (2, 2, 0, 0)


def test_boxes_thinner_than_rounding_are_equal_and_ones_a_pixel_apart_are_not():
    def sliver(top):
        return Detections(torch.tensor([[-9000.0, top, 9000, top + 0.002]]), torch.tensor([0.8]), torch.tensor([0]))

    assert match(sliver(50.0), sliver(50.01)) == (2, 2, 0, 0)
    assert match(sliver(50.0), sliver(52.0)) == (2, 0, 0, 2)
