"""How far the outputs of an exported file are from those of the PyTorch model: numbers, and detections one by one.

Which images are compared and what is stored about it is in `certificate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.boxes import pairwise_iou
from effdet.postprocess import logit
from effdet.structures import Detections
from effdet.types import PostprocessOptions, StoredPrecision

SATURATED = 1e-4  # scores as near to 0 or 1 count as equal: there, rounding of a float32 score is much of its logit
ROUNDING_PIXELS, ROUNDING_OF_SIDE = 0.05, 5e-5  # of a corner, in pixels and as a fraction of the box's longer side
SAME_ANCHOR = 0.999  # least IoU of the boxes that two files compute for one anchor; rounding alone leaves 0.9999


@dataclass(frozen=True)
class Tolerance:
    """How far an exported file may be from the PyTorch model.

    Attributes:
        relative: largest difference of an output, divided by its largest value.
        logit: largest difference of the logits of the scores of two detections that count as equal; 0.004 allows
            scores to differ by 0.001 around 0.5, and by less elsewhere.
        iou: least IoU of their boxes.
        lowest_score: detections with lower scores are not compared.
        different: fraction of the detections that may be different; near-ties are not counted as such.
        ap_loss: largest loss of AP, in points of 100.
        ap_decides: whether a file is judged by AP alone where it was measured.
    """

    relative: float
    logit: float
    iou: float
    lowest_score: float
    different: float
    ap_loss: float
    ap_decides: bool = False


_INT8 = Tolerance(relative=0.5, logit=1.5, iou=0.6, lowest_score=0.3, different=0.3, ap_loss=1.0, ap_decides=True)
TOLERANCES: dict[StoredPrecision, Tolerance] = {
    "float32": Tolerance(relative=1e-3, logit=0.004, iou=0.99, lowest_score=0.0, different=0.0, ap_loss=0.1),
    "float16": Tolerance(relative=3e-2, logit=0.2, iou=0.9, lowest_score=0.05, different=0.02, ap_loss=0.1),
    "dynamic-int8": _INT8,
    "int8": _INT8,
}


@dataclass(frozen=True)
class Difference:
    """The largest difference of an output.

    Attributes:
        absolute: largest |expected - actual|; infinity if an output is NaN or Inf.
        relative: the same, divided by the largest |expected|.
    """

    absolute: float
    relative: float


def largest_differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> dict[str, Difference]:
    """The largest difference of each output in `expected`."""
    return {
        name: difference_of(values, actual[name], float(values.abs().max()) if values.numel() else 0.0)
        for name, values in expected.items()
    }


def difference_of(expected: Tensor, actual: Tensor, scale: float) -> Difference:
    """The difference of an output whose largest expected value is `scale`."""
    expected, actual = expected.double(), actual.double()
    if expected.shape != actual.shape or not actual.isfinite().all():
        return Difference(math.inf, math.inf)
    if not expected.numel():
        return Difference(0.0, 0.0)
    absolute = float((expected - actual).abs().max())
    return Difference(absolute, absolute / scale if scale else (0.0 if not absolute else math.inf))


@dataclass(frozen=True)
class Matching:
    """How the detections of an exported file match those of the PyTorch model.

    A detection is equal to one of the other if label, box and score are within the tolerance. One without a partner is
    a near-tie if rounding decides about it, see `match_detections`; else it is different.

    Attributes:
        compared: detections of both.
        equal: those of them with a partner.
        near_ties: those without a partner about which rounding decides.
        least_iou: of equal detections whose boxes differ by more than rounding; 1 if there are none.
        score_difference: largest one of equal detections.
    """

    compared: int = 0
    equal: int = 0
    near_ties: int = 0
    least_iou: float = 1.0
    score_difference: float = 0.0

    @property
    def different(self) -> int:
        """Detections without a partner about which rounding does not decide."""
        return self.compared - self.equal - self.near_ties

    def __add__(self, other: Matching) -> Matching:
        return Matching(
            self.compared + other.compared,
            self.equal + other.equal,
            self.near_ties + other.near_ties,
            min(self.least_iou, other.least_iou),
            max(self.score_difference, other.score_difference),
        )


def match_detections(
    expected: Detections,
    actual: Detections,
    possible: Tensor,
    lowest_candidate: float,
    options: PostprocessOptions,
    tolerance: Tolerance,
) -> tuple[Matching, Tensor]:
    """Matches the detections of one image greedily, by descending score of those that are expected.

    Rounding decides about a detection without a partner if

    - its score is as near to the score threshold as scores of equal detections may be to each other, or
    - the other side has as many detections as it may have, and its score is no higher than their lowest, or
    - the candidates for NMS were cut at their largest number, and its score is no higher than their lowest, or
    - NMS was close: a box that suppresses it has an IoU with it as near to the threshold as boxes of equal detections
      may differ, or a score as near to its own, or is itself a detection about which rounding decides, or has a partner
      from another anchor.

    An additional detection must also be a prediction of the PyTorch model, see `are_predictions`. "No higher" means up
    to the difference of the scores of equal detections.

    Args:
        expected: of the PyTorch model.
        actual: of the exported file.
        possible: which rows of `actual` are predictions of the PyTorch model, [M] bool.
        lowest_candidate: logit of the last candidate, where candidates were cut; else minus infinity.
        options: thresholds and NMS of both.
        tolerance: when two detections are equal.

    Returns:
        The matching, and the rows of `expected` that have a partner.
    """
    overlaps, alike = pairwise_iou(expected.boxes, actual.boxes), _alike(expected.boxes, actual.boxes)
    pairs = _greedy_pairs(_equal(expected, actual, tolerance) * (overlaps + 1e-9))  # slivers may not overlap
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    ties = _Unmatched(expected, actual, pairs, possible, lowest_candidate).near_ties(options, tolerance)
    compared = [detections.scores >= tolerance.lowest_score for detections in (expected, actual)]

    def count(side: int, rows: set[int]) -> int:
        return sum(bool(compared[side][row]) for row in rows)

    matching = Matching(
        int(compared[0].sum() + compared[1].sum()),
        count(0, rows) + count(1, columns),
        count(0, ties[0]) + count(1, ties[1]),
        min((float(overlaps[pair]) for pair in pairs if not alike[pair]), default=1.0),
        max((float((expected.scores[row] - actual.scores[column]).abs()) for row, column in pairs), default=0.0),
    )
    return matching, torch.tensor(sorted(rows), dtype=torch.int64)


def are_predictions(actual: Detections, class_logits: Tensor, boxes: Tensor, tolerance: Tolerance) -> Tensor:
    """Which detections are equal to a prediction of any anchor before NMS, [M] bool.

    Args:
        actual: M detections.
        class_logits: [A, K].
        boxes: [A, 4] xyxy.
        tolerance: when two are equal.
    """
    rows, limit = [], logit(1 - SATURATED)
    class_logits = class_logits.double().clamp(-limit, limit)
    for box, score, label in zip(actual.boxes, _logits(actual.scores), actual.labels, strict=True):
        near_score = (class_logits[:, label] - score).abs() <= tolerance.logit
        rows.append((near_score & _near_boxes(box[None], boxes, tolerance)[0]).any())
    return torch.stack(rows) if rows else torch.zeros(0, dtype=torch.bool)


def _equal(first: Detections, second: Detections, tolerance: Tolerance) -> Tensor:
    """Whether label, box and score of two detections are within the tolerance, [M, N] bool."""
    same_label = first.labels[:, None] == second.labels
    near_score = (_logits(first.scores)[:, None] - _logits(second.scores)).abs() <= tolerance.logit
    return same_label & near_score & _near_boxes(first.boxes, second.boxes, tolerance)


def _near_boxes(first: Tensor, second: Tensor, tolerance: Tolerance) -> Tensor:
    """Whether boxes [M, 4] and [N, 4] have at least the IoU of the tolerance or differ by rounding alone, [M, N] bool.

    Untrained networks predict boxes of a thousandth of a pixel by thousands of pixels, whose IoU says nothing.
    """
    return _alike(first, second) | (pairwise_iou(first, second) >= tolerance.iou)


def _alike(first: Tensor, second: Tensor) -> Tensor:
    """Whether the corners of boxes [M, 4] and [N, 4] differ by rounding alone, [M, N] bool."""
    sides = (first[:, 2:] - first[:, :2]).amax(1)
    furthest = (first[:, None] - second).abs().amax(2)
    return furthest <= ROUNDING_PIXELS + ROUNDING_OF_SIDE * sides[:, None]


def _logits(scores: Tensor) -> Tensor:
    """The logits of scores, in float64, cut to those of `SATURATED`."""
    return torch.logit(scores.double(), eps=SATURATED)


def _greedy_pairs(overlaps: Tensor) -> list[tuple[int, int]]:
    """Rows and columns: each row in turn gets the free column of the largest overlap above 0."""
    left, pairs = overlaps.clone(), []
    for row in range(len(left)):
        if not left.shape[1]:
            break
        best = int(left[row].argmax())
        if left[row, best] > 0:
            pairs.append((row, best))
            left[:, best] = 0
    return pairs


class _Unmatched:
    """The detections without a partner, of both sides: 0 is expected, 1 is actual.

    Actual detections that are no predictions of the model, which `possible` [M] bool says, decide about nothing.
    """

    def __init__(
        self,
        expected: Detections,
        actual: Detections,
        pairs: list[tuple[int, int]],
        possible: Tensor,
        lowest_candidate: float,
    ) -> None:
        self.lowest_candidate = lowest_candidate
        rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
        overlaps = pairwise_iou(expected.boxes, actual.boxes)
        alike = [pair for pair in pairs if float(overlaps[pair]) < SAME_ANCHOR]
        self.alike = ({row for row, _ in alike}, {column for _, column in alike})
        self.sides = (expected, actual)
        self.possible = (torch.ones(len(expected), dtype=torch.bool), possible)
        self.logits = tuple(_logits(side.scores) for side in self.sides)
        self.without = (
            [row for row in range(len(expected)) if row not in rows],
            [column for column in range(len(actual)) if column not in columns],
        )

    def near_ties(self, options: PostprocessOptions, tolerance: Tolerance) -> tuple[set[int], set[int]]:
        """Those about which rounding decides."""
        ties: tuple[set[int], set[int]] = (set(), set())
        open_rows = [(side, row) for side in (0, 1) for row in self.without[side] if self.possible[side][row]]
        changed = True
        while changed:  # a near-tie makes those that it suppresses near-ties too
            changed = False
            for side, row in open_rows:
                if row not in ties[side] and self._is_tie(side, row, ties, options, tolerance):
                    ties[side].add(row)
                    changed = True
        return ties

    def _is_tie(
        self,
        side: int,
        row: int,
        ties: tuple[set[int], set[int]],
        options: PostprocessOptions,
        tolerance: Tolerance,
    ) -> bool:
        own, other = self.sides[side], self.sides[1 - side]
        score, scores = float(self.logits[side][row]), self.logits[1 - side]
        if abs(score - logit(options.score_threshold)) <= tolerance.logit:
            return True
        if score <= self.lowest_candidate + tolerance.logit:
            return True
        if len(other) >= options.max_detections and score <= float(scores.min()) + tolerance.logit:
            return True
        if options.nms == "soft" or not len(other):
            return False
        margin = 1 - tolerance.iou
        overlaps = pairwise_iou(own.boxes[row][None], other.boxes)[0]
        rivals = (overlaps > options.iou_threshold - margin) & (scores >= score - tolerance.logit)
        rivals &= self.possible[1 - side]
        if options.nms == "class":
            rivals &= other.labels == own.labels[row]
        close = (overlaps <= options.iou_threshold + margin) | ((scores - score).abs() <= tolerance.logit)
        close[list(ties[1 - side] | self.alike[1 - side])] = True
        # Where no rival is clear about it, any of the close ones may have decided.
        return bool(rivals.any()) and not bool((rivals & ~close).any())
