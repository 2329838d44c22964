"""Chooses the images with the worst errors of a detector, with the boxes to draw over them.

The kinds of errors are defined in `error_types.py`; drawing is done in `effdet/report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.error_types import KINDS, MISSED, ErrorTypes, missed_objects
from effdet.evaluation.matching import Matches, Objects, Predictions
from effdet.files import SCORE_DECIMALS

MOST_IMAGES = 12  # per kind of error
MOST_BOXES = 60  # per image
_BOX_DECIMALS = 1  # of pixels


class _Shown(NamedTuple):
    """What there is to show of a data set of N objects.

    Attributes:
        objects: [N].
        missed: [N] bool.
        explained: [N], highest score of the wrong detections that an object explains.
        places: [Q], detections in a `Matches` whose scores reach the threshold.
        images: [Q], their images.
        kinds: [Q], of their errors.
        scores: [Q].
        labels: [Q].
        boxes: [Q, 4].
    """

    objects: Objects
    missed: NDArray[np.bool_]
    explained: NDArray[np.float64]
    places: NDArray[np.int64]
    images: NDArray[np.int64]
    kinds: NDArray[np.int64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]


def worst_images(
    objects: Objects,
    predictions: Predictions,
    matches: Matches,
    types: ErrorTypes,
    score_threshold: float,
    file_names: Sequence[str] | NDArray[np.str_],
    sizes: NDArray[np.integer],
) -> list[dict[str, Any]]:
    """Up to 12 images per kind of error, those that it costs most, as plain values; the worst of all kinds first.

    What a wrong detection costs is its score, and a missed object costs 1. At most 60 boxes of an image are listed:
    missed objects, wrong detections and the objects that explain them first.

    Args:
        objects: of the data set.
        predictions: all detections.
        matches: theirs, as `CocoEvaluator.matches` gives them.
        types: their errors.
        score_threshold: lowest score of detections that are shown and counted.
        file_names: I names.
        sizes: [I, 2], H and W of the images.

    Returns:
        For each image `file_name`; `index`, its row; `size`; `counts`, errors by kind; `objects` and `detections`, in
        which `error` is null for what is right or matches a crowd; `left_out`, boxes that are not listed.
    """
    shown = _shown(objects, predictions, matches, types, score_threshold)
    costs, counts = _by_kind_and_image(shown, len(file_names))
    chosen = [np.argsort(-cost, kind="stable")[:MOST_IMAGES] for cost in costs]
    images = np.unique(np.concatenate([rows[cost[rows] > 0] for rows, cost in zip(chosen, costs, strict=True)]))
    images = images[np.argsort(-costs[:, images].sum(axis=0), kind="stable")]
    return [
        {
            "file_name": str(file_names[image]),
            "index": image,
            "size": sizes[image].tolist(),
            "counts": dict(zip((*KINDS, MISSED), counts[:, image].tolist(), strict=True)),
            **_boxes(shown, image),
        }
        for image in images.tolist()
    ]


def _shown(
    objects: Objects, predictions: Predictions, matches: Matches, types: ErrorTypes, score_threshold: float
) -> _Shown:
    places = np.flatnonzero(matches.scores >= score_threshold)
    wrong = places[types.kinds[places] >= 0]
    explained = np.zeros(len(objects.labels))
    with_object = wrong[types.objects[wrong] >= 0]
    np.maximum.at(explained, types.objects[with_object], matches.scores[with_object])
    return _Shown(
        objects=objects,
        missed=missed_objects(matches, types, score_threshold),
        explained=explained,
        places=places,
        images=matches.images[places],
        kinds=types.kinds[places],
        scores=matches.scores[places],
        labels=matches.labels[places],
        boxes=predictions.boxes[matches.rows[places]],
    )


def _by_kind_and_image(shown: _Shown, num_images: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What the errors of each kind and image cost, and their number, [6, I] each."""
    missed = np.bincount(shown.objects.images[shown.missed], minlength=num_images)
    of_kind = [shown.kinds == kind for kind in range(len(KINDS))]
    costs = [np.bincount(shown.images[which], shown.scores[which], num_images) for which in of_kind]
    counts = [np.bincount(shown.images[which], minlength=num_images) for which in of_kind]
    return np.stack([*costs, missed.astype(np.float64)]), np.stack([*counts, missed])


def _boxes(shown: _Shown, image: int) -> dict[str, Any]:
    """The boxes of an image: objects, detections, and how many are left out."""
    rows, places = np.flatnonzero(shown.objects.images == image), np.flatnonzero(shown.images == image)
    weights = np.concatenate(
        [
            np.where(shown.missed[rows], 1.0, shown.explained[rows]),
            np.where(shown.kinds[places] >= 0, shown.scores[places], 0.0),
        ]
    )
    listed = np.sort(np.argsort(-weights, kind="stable")[:MOST_BOXES])
    rows, places = rows[listed[listed < len(rows)]], places[listed[listed >= len(rows)] - len(rows)]
    return {
        "objects": [_object(shown, row) for row in rows.tolist()],
        "detections": [_detection(shown, place) for place in places[np.argsort(-shown.scores[places], kind="stable")]],
        "left_out": len(weights) - len(listed),
    }


def _object(shown: _Shown, row: int) -> dict[str, Any]:
    return {
        "box": shown.objects.boxes[row].round(_BOX_DECIMALS).tolist(),
        "label": int(shown.objects.labels[row]),
        "error": MISSED if shown.missed[row] else None,
        "crowd": bool(shown.objects.crowd[row]),
    }


def _detection(shown: _Shown, place: int) -> dict[str, Any]:
    kind = int(shown.kinds[place])
    return {
        "box": shown.boxes[place].round(_BOX_DECIMALS).tolist(),
        "label": int(shown.labels[place]),
        "score": round(float(shown.scores[place]), SCORE_DECIMALS),
        "error": KINDS[kind] if kind >= 0 else None,
    }
