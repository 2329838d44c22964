"""The rows of a review: each says that one label is probably missing, spurious or misnamed, and why.

What the detections say is in `evidence.py`; files are written in `files.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.diagnosis.review.error_probability import HIGHEST, error_probability, sigmoid
from effdet.diagnosis.review.evidence import (
    Evidence,
    misnamed_evidence,
    missed_evidence,
    spurious_evidence,
    usually_detected,
)
from effdet.diagnosis.review.views import (
    SAME_PLACE,
    Support,
    Views,
    overlap_matrix,
    support_of,
    view,
)
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.matching import Objects, Predictions

Kind = Literal["missed", "spurious", "misnamed"]
KINDS: tuple[Kind, ...] = ("missed", "misnamed", "spurious")
WORTH_A_LOOK = 0.5  # probability from which on a row is more likely an error than not
LEAST_PROBABILITY = 0.2  # of a row that is listed
_MANY_SPURIOUS = 0.05  # of the labels; a model that does not find many objects makes more look spurious
_NEAR = 0.1  # IoU with a label that is worth a word


@dataclass(frozen=True, kw_only=True)
class Row:
    """One label that is probably wrong.

    Attributes:
        kind: 'missed' for an object without a box, 'spurious' for a box without an object, 'misnamed' for a box with
            the wrong class.
        probability: that it is an error, comparable over the kinds.
        split: train or val.
        image: row of the image in the table of the split.
        file_name: of the image.
        box: xyxy in pixels of the image.
        given: name of the class that the box has; None for a missed object.
        proposed: name of the class that it should have; None for a spurious box.
        confidence: of the detection that contradicts the label; of a spurious box that of the best one at its place, 0
            without any.
        number: which box of the image it is, from 1; None for a missed object.
        reason: why, in a sentence.
    """

    kind: Kind
    probability: float
    split: str
    image: int
    file_name: str
    box: tuple[float, float, float, float]
    given: str | None
    proposed: str | None
    confidence: float
    number: int | None
    reason: str


def review_table(table: Annotations, predictions: Predictions, split: str, seed: int = 0) -> list[Row]:
    """The rows of one split, the most probable errors first.

    Args:
        table: the labels.
        predictions: the detections of all images, best of a model that was not trained on these labels.
        split: name of the split.
        seed: of the simulated errors.
    """
    objects = CocoEvaluator(table).truth()
    num_images, num_classes = len(table), len(table.label_map)
    views = view(objects, predictions, num_images, num_classes)
    support = support_of(objects, views)
    rng = np.random.default_rng(seed)
    usual = usually_detected(objects, support, num_classes)
    sizes = _sizes(table, objects, views)
    missed = missed_evidence(objects, views, support, sizes)
    misnamed = misnamed_evidence(objects, views, support, num_classes, rng)
    spurious = spurious_evidence(objects, views, support, usual, sizes, rng)
    reviewed = _Reviewed(table, objects, views, support, sigmoid(usual), split)
    rows = [
        *reviewed.rows("missed", missed, missed_probability(missed)),
        *reviewed.rows("misnamed", misnamed, error_probability(misnamed.values, misnamed.simulated)),
        *reviewed.rows(
            "spurious",
            spurious,
            error_probability(spurious.values, spurious.simulated, _MANY_SPURIOUS * len(spurious.rows)),
        ),
    ]
    return ranked(_one_for_each_box(ranked(rows)))


def missed_probability(evidence: Evidence) -> NDArray[np.float64]:
    """Probability that each detection without a label is of an object, [C]: the mean of two limits.

    The lower one holds if labels are missing at random. But people overlook the objects that are hard to see, which
    models detect with less confidence. The upper one holds if detections without a label are right as often as others
    with the same evidence, of which the evidence is the logit.
    """
    lower = error_probability(evidence.values, evidence.simulated)
    return (lower + np.minimum(np.maximum(sigmoid(evidence.values), lower), HIGHEST)) / 2


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows sorted by descending probability; of equal ones the one with more evidence came first already."""
    return sorted(rows, key=lambda row: -row.probability)


@dataclass(frozen=True)
class _Reviewed:
    """What is known about a split, from which rows are made."""

    table: Annotations
    objects: Objects
    views: Views
    support: Support
    usual: NDArray[np.float64]
    split: str

    def rows(self, kind: Kind, evidence: Evidence, probability: NDArray[np.float64]) -> list[Row]:
        """The rows of one kind, the strongest evidence first."""
        order = np.argsort(-evidence.values, kind="stable")
        make = {"missed": self._missed, "misnamed": self._misnamed, "spurious": self._spurious}[kind]
        return [
            make(int(evidence.rows[row]), float(probability[row]))
            for row in order.tolist()
            if probability[row] >= LEAST_PROBABILITY
        ]

    def _missed(self, detection: int, probability: float) -> Row:
        views, name = self.views, self._name(int(self.views.labels[detection]))
        score, nearest = float(views.scores[detection]), int(views.nearest[detection])
        reason = f"{name} detected with confidence {score:.2f}, but no box is at its place"
        if nearest >= 0 and views.overlaps[detection] >= _NEAR:
            near = self._name(int(self.objects.labels[nearest]))
            reason += f"; the nearest one, {near}, overlaps it by IoU {views.overlaps[detection]:.2f}"
        image, box = int(views.images[detection]), views.boxes[detection]
        return self._row("missed", probability, image, box, None, name, score, None, reason)

    def _misnamed(self, row: int, probability: float) -> Row:
        other, own = int(self.support.other[row]), int(self.support.own[row])
        given, name = self._name(int(self.objects.labels[row])), self._name(int(self.views.labels[other]))
        score = float(self.views.scores[other])
        rival = f", {given} with {self.views.scores[own]:.2f}" if own >= 0 else f" and no {given}"
        reason = f"labelled {given}, but {name} is detected with confidence {score:.2f}{rival}"
        return self._of_object("misnamed", probability, row, name, score, reason)

    def _spurious(self, row: int, probability: float) -> Row:
        given = self._name(int(self.objects.labels[row]))
        speaking = [place for place in (int(self.support.own[row]), int(self.support.other[row])) if place >= 0]
        best = max(speaking, key=lambda place: float(self.views.confidences[place]), default=None)
        score = 0.0 if best is None else float(self.views.scores[best])
        if best is None:
            reason = f"labelled {given}, but nothing is detected at its place"
        else:
            name = self._name(int(self.views.labels[best]))
            reason = f"labelled {given}, but at its place only {name} is detected, with confidence {score:.2f}"
        reason += f"; {self.usual[row]:.0%} of such boxes are detected"
        double = self._double(row)
        if double >= SAME_PLACE:
            reason += f"; another box overlaps it by IoU {double:.2f}"
        return self._of_object("spurious", probability, row, None, score, reason)

    def _double(self, row: int) -> float:
        """The highest IoU of a label with another one of its image."""
        here = self.table.rows(int(self.objects.images[row]))
        overlaps = overlap_matrix(self.objects.boxes[row][None], self.objects.boxes[here])[0]
        overlaps[row - here.start] = 0
        return float(overlaps.max())

    def _of_object(
        self, kind: Kind, probability: float, row: int, proposed: str | None, confidence: float, reason: str
    ) -> Row:
        image, given = int(self.objects.images[row]), self._name(int(self.objects.labels[row]))
        number = row - self.table.rows(image).start + 1
        box = self.objects.boxes[row]
        return self._row(kind, probability, image, box, given, proposed, confidence, number, reason)

    def _row(
        self,
        kind: Kind,
        probability: float,
        image: int,
        box: NDArray[np.float64],
        given: str | None,
        proposed: str | None,
        confidence: float,
        number: int | None,
        reason: str,
    ) -> Row:
        left, top, right, bottom = np.round(box, 2).tolist()
        return Row(
            kind=kind,
            probability=round(probability, 4),
            split=self.split,
            image=image,
            file_name=self.table.file_name(image),
            box=(left, top, right, bottom),
            given=given,
            proposed=proposed,
            confidence=round(confidence, 4),
            number=number,
            reason=reason,
        )

    def _name(self, label: int) -> str:
        return self.table.label_map.names[label]


def _one_for_each_box(rows: Sequence[Row]) -> list[Row]:
    """The first row of every box; a box that is both misnamed and spurious needs one look."""
    known: set[tuple[str, int, int]] = set()
    kept = []
    for row in rows:
        if row.number is not None:
            key = row.split, row.image, row.number
            if key in known:
                continue
            known.add(key)
        kept.append(row)
    return kept


def _sizes(table: Annotations, objects: Objects, views: Views) -> NDArray[np.float64]:
    """(H, W) of the images, [I, 2]; where the annotations do not say, as far as boxes and detections reach."""
    reach = np.zeros((len(table), 2))
    for images, boxes in ((objects.images, objects.boxes), (views.images, views.boxes)):
        np.maximum.at(reach, images, boxes[:, [3, 2]])
    return np.where(table.sizes > 0, table.sizes, reach)
