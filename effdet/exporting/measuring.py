"""Runs an exported file and the PyTorch model on the same images and measures the differences.

When two results are equal is in `comparing.py`, the verdict in `certificate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.boxes import decode_boxes
from effdet.config import Config, DetectionConfig
from effdet.data.image_table import ImageTable
from effdet.data.images import Image
from effdet.evaluation.evaluate import evaluate
from effdet.exporting.certificate import ApComparison, Comparison, DrawnReference, Sample, StoredDetection
from effdet.exporting.comparing import (
    Difference,
    Matching,
    Tolerance,
    are_predictions,
    difference_of,
    largest_differences,
    match_detections,
)
from effdet.exporting.images import SEED, pixel_hash
from effdet.models import EfficientDet, EfficientNet
from effdet.postprocess import logit, postprocess, postprocess_boxes
from effdet.runtimes.exported import ExportedRuntime
from effdet.runtimes.runtime import Runtime
from effdet.structures import Detections, Outputs
from effdet.types import Face, PostprocessOptions, Task
from effdet.weights.exported import ExportCard

SAMPLES = 64  # values of each output of a drawn image that are stored
TOP = 10  # detections of a drawn image that are stored
METRICS: dict[Task, str] = {"detection": "AP", "classification": "top1"}

# Faces without NMS inside, whose outputs are compared as they are, and before that turned into detections.
_WITHOUT_NMS: tuple[Face, ...] = ("raw", "mediapipe")
_UNSEEN = -100.0  # logit of a class that the NMS of the face "coral" does not see


def compare_images(
    model: EfficientDet | EfficientNet,
    runtime: ExportedRuntime,
    images: Sequence[Image],
    drawn: int,
    tolerance: Tolerance,
) -> Comparison:
    """Compares a file with its model on images [H, W, C] uint8 at the input size.

    A file with a batch of any size gets batches of two images and one with what is left.

    Args:
        model: in PyTorch, not folded.
        runtime: of the file.
        images: what to compare on.
        drawn: number of the last images that are drawn; their references are stored.
        tolerance: when detections are equal.

    Raises:
        NotFiniteError: the model itself gives NaN or Inf.
    """
    results = [
        _compare_image(model, runtime.export, image, actual, tolerance)
        for image, actual in zip(images, _batched(runtime, images), strict=True)
    ]
    names = results[0].outputs
    largest = {
        name: Difference(
            max(result.outputs[name].absolute for result in results),
            max(result.outputs[name].relative for result in results),
        )
        for name in names
    }
    matchings = [result.matching for result in results if result.matching is not None]
    same = [result.same_class for result in results if result.same_class is not None]
    references = tuple(reference for result in results[len(results) - drawn :] for reference in result.drawn)
    spreads = [result.spread for result in results if result.spread is not None]
    return Comparison(
        len(results),
        largest,
        reduce(add, matchings) if matchings else None,
        sum(same) if same else None,
        references,
        min(spreads, default=None),
    )


def _batched(runtime: ExportedRuntime, images: Sequence[Image]) -> Iterator[dict[str, Tensor]]:
    """The outputs of a file for each image."""
    size = runtime.export.batch_size or 2
    for start in range(0, len(images), size):
        batch = torch.from_numpy(np.stack(images[start : start + size])).permute(0, 3, 1, 2)
        outputs = runtime.outputs(batch)
        for index in range(len(batch)):
            yield {name: values[index : index + 1] for name, values in outputs.items()}


@torch.inference_mode()
def expected_outputs(model: EfficientDet | EfficientNet, face: Face, image: Image) -> tuple[dict[str, Tensor], Any]:
    """The outputs of the PyTorch model for an image by the names that a file has, and the detector's own outputs."""
    images = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)[None]
    if face == "features":
        network: Any = model
        return dict(zip(("c3", "c4", "c5"), network.backbone.features(images), strict=True)), None
    outputs: Any = model(images)
    if face == "logits":
        return {"logits": outputs.float()}, None
    boxes = decode_boxes(outputs.box_deltas, outputs.anchors)
    return {"class_logits": outputs.class_logits.float(), "boxes": boxes}, outputs


def _compare_image(
    model: EfficientDet | EfficientNet,
    export: ExportCard,
    image: Image,
    actual: dict[str, Tensor],
    tolerance: Tolerance,
) -> Comparison:
    """The comparison of one image, with its reference as if it were drawn."""
    expected, outputs = expected_outputs(model, export.face, image)
    seen = expected if export.face in ("logits", "features", *_WITHOUT_NMS) else {}
    differences = largest_differences(seen, actual)
    samples = {name: Sample(_short(float(v.abs().max())), _sampled(v)) for name, v in seen.items()}
    reference = DrawnReference(pixel_hash([image]), samples)
    if export.face == "logits":
        same = _same_class(expected["logits"][0], actual["logits"][0], tolerance)
        return Comparison(1, differences, None, int(same), (reference,), _spread(expected["logits"]))
    if export.face == "features":
        return Comparison(1, differences, None, None, (reference,))
    if not all(difference.relative < torch.inf for difference in differences.values()):  # NaN, Inf or another shape
        return Comparison(1, differences, Matching(), None, (reference,))
    options, spread = compared_options(export), _spread(expected["class_logits"])
    if export.face == "coral":
        outputs = _best_classes(outputs)
    (detections,) = postprocess(outputs, options)
    of_file, logits = actual_detections(actual, export.face, options), outputs.class_logits[0].float()
    possible = are_predictions(of_file, logits, expected["boxes"][0], tolerance)
    lowest = _lowest_candidate(logits, options)
    matching, rows = match_detections(detections, of_file, possible, lowest, options, tolerance)
    reference = replace(reference, detections=_stored(detections, rows[:TOP]))
    return Comparison(1, differences, matching, None, (reference,), spread)


def _spread(logits: Tensor) -> float:
    return float(logits.max() - logits.min())


def _stored(detections: Detections, rows: Tensor) -> tuple[StoredDetection, ...]:
    """Some detections as plain numbers."""
    chosen = zip(detections.boxes[rows].tolist(), detections.scores[rows], detections.labels[rows], strict=True)
    return tuple(
        (_short(x1), _short(y1), _short(x2), _short(y2), _short(float(score)), int(label))
        for (x1, y1, x2, y2), score, label in chosen
    )


def _best_classes(outputs: Outputs) -> Outputs:
    """The outputs as NMS of the face "coral" sees them, which knows the best class of each anchor alone."""
    best = outputs.class_logits.amax(2, keepdim=True)
    logits = outputs.class_logits.where(outputs.class_logits == best, _UNSEEN)
    return Outputs(logits, outputs.box_deltas, outputs.anchors)


def _lowest_candidate(class_logits: Tensor, options: PostprocessOptions) -> float:
    """The logit of the last candidate for NMS if there are more than it gets, else minus infinity."""
    logits = class_logits.flatten()
    above = logits[logits >= logit(options.score_threshold)]
    if len(above) <= options.max_candidates:
        return -math.inf
    return float(above.topk(options.max_candidates, sorted=False).values.min())


def compared_options(export: ExportCard) -> PostprocessOptions:
    """The thresholds and NMS by which a file is compared: its own, or those with which the model was evaluated."""
    options = export.postprocess or PostprocessOptions(**export.model.postprocess)
    # NMS is not inside a file without options, and equal outputs give equal detections by any kind of NMS.
    return options if export.postprocess or options.nms != "soft" else replace(options, nms="class")


def actual_detections(actual: dict[str, Tensor], face: Face, options: PostprocessOptions) -> Detections:
    """The detections in the outputs of a file for one image."""
    if face in _WITHOUT_NMS:
        return postprocess_boxes(actual["class_logits"], actual["boxes"], options)[0]
    count = int(actual["counts"][0])
    boxes, scores, labels = (actual[name][0][:count] for name in ("boxes", "scores", "labels"))
    return Detections(boxes.float(), scores.float(), labels.long())


def _same_class(expected: Tensor, actual: Tensor, tolerance: Tolerance) -> bool:
    """Whether the most probable class of a file is one that the model finds as probable, up to the tolerance."""
    scale = float(expected.abs().max())
    return float(expected.max() - expected[actual.argmax()]) <= tolerance.relative * scale


def sampled_positions(count: int) -> NDArray[np.int64]:
    """Positions of the values of an output of `count` values that are stored."""
    return np.random.Generator(np.random.PCG64(SEED)).integers(0, count, SAMPLES)


def _sampled(values: Tensor) -> tuple[float, ...]:
    return tuple(_short(float(value)) for value in _at_sampled_positions(values))


def _at_sampled_positions(values: Tensor) -> Tensor:
    flat = values.reshape(-1)
    return flat[torch.from_numpy(sampled_positions(len(flat)))]


def _short(value: float) -> float:
    """Seven digits, which is what float32 holds."""
    return float(f"{value:.7g}")


def compare_drawn(
    runtime: ExportedRuntime, images: Sequence[Image], references: Sequence[DrawnReference], tolerance: Tolerance
) -> tuple[dict[str, Difference], int, int]:
    """Compares a file with the stored references of its model on the drawn images.

    Returns:
        The largest difference of the stored values of each output; the number of stored detections; and how many of
        them the file has.
    """
    export, stored, equal = runtime.export, 0, 0
    differences: dict[str, Difference] = {}
    for reference, actual in zip(references, _batched(runtime, images), strict=True):
        for name, sample in reference.outputs.items():
            values = _at_sampled_positions(actual[name])
            own = difference_of(torch.tensor(sample.values, dtype=torch.float64), values, sample.largest)
            before = differences.get(name, Difference(0.0, 0.0))
            differences[name] = Difference(max(before.absolute, own.absolute), max(before.relative, own.relative))
        if reference.detections:
            options = compared_options(export)
            rows = torch.tensor(reference.detections, dtype=torch.float64)
            expected = Detections(rows[:, :4].float(), rows[:, 4].float(), rows[:, 5].long())
            of_file = actual_detections(actual, export.face, options)
            possible = torch.ones(len(of_file), dtype=torch.bool)
            _, equal_rows = match_detections(expected, of_file, possible, -math.inf, options, tolerance)
            stored, equal = stored + len(rows), equal + len(equal_rows)
    return differences, stored, equal


def compare_ap(
    before: Runtime, after: Runtime, table: ImageTable, config: Config, options: PostprocessOptions | None, data: str
) -> ApComparison:
    """The main metric of the task of two runtimes on the images of a table.

    Args:
        before: of the PyTorch model.
        after: of the file.
        table: labelled images, with the labels of the model.
        config: see `evaluate`.
        options: thresholds and NMS of a detector.
        data: name of the data set.

    Raises:
        DataError: an image cannot be read.
    """
    if isinstance(config, DetectionConfig) and options is not None:
        postprocess = config.postprocess.model_copy(update=vars(options))
        config = config.model_copy(update={"postprocess": postprocess})
    metric = METRICS[before.card.task]
    values = [evaluate(runtime, table, config).metrics()[metric] for runtime in (before, after)]
    return ApComparison(metric, data, len(table), *values)
