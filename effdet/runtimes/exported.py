"""Runs exported files: fixed batches, the outputs of each face, and the options that are fixed inside a file.

What opens a file and runs its graph is in the module of its runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.errors import ConfigError, WeightsError
from effdet.postprocess import check_finite, finite_sums, postprocess_boxes
from effdet.structures import Detections
from effdet.text import count_of, reason_of
from effdet.types import PostprocessOptions
from effdet.weights.exported import ExportCard

# A graph: images [B, H, W, 3] uint8 RGB to its outputs by name.
Graph = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.generic]]]


class ExportedRuntime:
    """An exported file that is ready to run; see `Runtime`.

    Attributes:
        export: what the file says about itself.
        name: the file, for messages.
    """

    def __init__(self, graph: Graph, export: ExportCard, device: torch.device, name: str) -> None:
        self.card, self.device, self.image_size = export.model, device, export.image_size
        self.export, self.name, self._graph = export, name, graph

    def detections(self, images: Tensor, options: PostprocessOptions) -> list[Detections]:
        """See `Runtime`."""
        self.check_options(options)
        outputs = self.outputs(images)
        classes = len(self.card.class_names)
        if self.export.postprocess is None:
            self._check_shapes(outputs, class_logits=(None, classes), boxes=(None, 4))
            return postprocess_boxes(outputs["class_logits"], outputs["boxes"], options)
        self._check_shapes(outputs, boxes=(None, 4), scores=(None,), labels=(None,), counts=())
        if outputs["labels"].is_floating_point() or outputs["counts"].is_floating_point():
            raise WeightsError(f"{self.name}: gives labels or counts that are no integers; export it again")
        results = _selected(outputs, options)
        if not all(_are_sound(result, classes) for result in results):
            raise WeightsError(
                f"{self.name}: gives boxes of NaN or Inf, or labels that are none of its {classes} classes; export it "
                "again"
            )
        return results

    def logits(self, images: Tensor) -> Tensor:
        """See `Runtime`."""
        if self.export.face != "logits":
            raise ConfigError(
                f"{self.name}: has the face '{self.export.face}', whose outputs are features; export it with "
                "--face logits to classify"
            )
        outputs = self.outputs(images)
        self._check_shapes(outputs, logits=(len(self.card.class_names),))
        return outputs["logits"].float()

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs of the file by name for images [B, 3, H, W] uint8 RGB; a fixed batch is filled with copies.

        Raises:
            ConfigError: the images have another size than the file is fixed to.
        """
        size = tuple(images.shape[-2:])
        if size != self.image_size:
            height, width = self.image_size
            raise ConfigError(
                f"{self.name}: is fixed to images of {height} x {width} pixels, got {size[0]} x {size[1]}; leave "
                "model.image_size out, or export the model at that size with --image-size"
            )
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        fixed = self.export.batch_size or len(pixels)
        results = []
        for start in range(0, len(pixels), fixed):
            chunk = pixels[start : start + fixed]
            filled = chunk if len(chunk) == fixed else np.concatenate([chunk, chunk[-1:].repeat(fixed - len(chunk), 0)])
            results.append({name: values[: len(chunk)] for name, values in self._run(filled).items()})
        return {name: torch.from_numpy(np.concatenate([result[name] for result in results])) for name in results[0]}

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """The outputs of the graph for a batch.

        Raises:
            WeightsError: the graph cannot run on images of the size that the metadata says, or gives another number of
                outputs.
        """
        try:
            outputs = self._graph(images)
        except MemoryError:
            raise
        except Exception as error:  # every runtime raises errors of its own
            raise WeightsError(
                f"{self.name}: cannot run on images {list(images.shape)} uint8, which its metadata describes: "
                f"{reason_of(error)}; export it again"
            ) from None
        if any(values.ndim == 0 or len(values) != len(images) for values in outputs.values()):
            raise WeightsError(f"{self.name}: gives outputs for another number of images; export it again")
        return outputs

    def _check_shapes(self, outputs: dict[str, Tensor], **expected: tuple[int | None, ...]) -> None:
        """Checks the sizes behind the batch; None stands for one number in all outputs.

        Raises:
            WeightsError: an output is missing, or has other sizes.
        """
        shapes = {name: tuple(outputs[name].shape[1:]) for name in expected if name in outputs}
        pairs = [(own, size) for name in shapes for own, size in zip(shapes[name], expected[name], strict=False)]
        fits = (
            all(name in shapes and len(shapes[name]) == len(sizes) for name, sizes in expected.items())
            and all(size in (None, own) for own, size in pairs)
            and len({own for own, size in pairs if size is None}) <= 1
        )
        if not fits:
            held = "; ".join(f"{key} {list(values.shape)}" for key, values in outputs.items())
            raise WeightsError(
                f"{self.name}: its outputs are {held}, which do not fit the face '{self.export.face}' of a model "
                f"with {count_of(len(self.card.class_names), 'class', 'classes')}; export it again"
            )

    def check_options(self, options: PostprocessOptions) -> None:
        """Raises ConfigError if the file gives no detections, or its NMS is fixed to other options."""
        if self.export.face == "features":
            raise ConfigError(
                f"{self.name}: has the face 'features', whose outputs are features; export it with --face detections "
                "or raw to predict"
            )
        fixed = self.export.postprocess
        if fixed is None:
            return
        wanted = replace(
            options,
            score_threshold=max(options.score_threshold, fixed.score_threshold),
            max_detections=min(options.max_detections, fixed.max_detections),
        )
        if wanted != options:
            raise ConfigError(
                f"{self.name}: gives at most {fixed.max_detections} detections of at least {fixed.score_threshold}; "
                "ask for no more, or export it with --face raw, whose NMS is not inside the file"
            )
        same = replace(fixed, score_threshold=options.score_threshold, max_detections=options.max_detections)
        for key, value in vars(options).items():
            if value != getattr(same, key):
                raise ConfigError(
                    f"{self.name}: {key} is fixed to {getattr(same, key)}, got {value}; leave it out, or export the "
                    "model with --face raw, whose NMS is not inside the file"
                )


def _selected(outputs: dict[str, Tensor], options: PostprocessOptions) -> list[Detections]:
    """The detections of each image at or above the confidence threshold.

    Raises:
        NotFiniteError: scores are NaN, see `SuppressingDetector`.
    """
    check_finite(finite_sums(outputs["scores"]))
    results = []
    for boxes, scores, labels, count in zip(
        outputs["boxes"], outputs["scores"], outputs["labels"], outputs["counts"].tolist(), strict=True
    ):
        above = int((scores[: max(count, 0)] >= options.score_threshold).sum())  # sorted by descending score
        kept = slice(min(above, options.max_detections))
        results.append(Detections(boxes[kept].float(), scores[kept].float(), labels[kept].long()))
    return results


def _are_sound(detections: Detections, classes: int) -> bool:
    """Whether boxes and scores are finite, and labels are classes."""
    labels = detections.labels
    finite = bool(detections.boxes.isfinite().all() and detections.scores.isfinite().all())
    return finite and bool(((labels >= 0) & (labels < classes)).all())
