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

from effdet.errors import ConfigError
from effdet.postprocess import check_finite, finite_sums, postprocess_boxes
from effdet.structures import Detections
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
        if self.export.postprocess is None:
            return postprocess_boxes(outputs["class_logits"], outputs["boxes"], options)
        return _selected(outputs, options)

    def logits(self, images: Tensor) -> Tensor:
        """See `Runtime`."""
        if self.export.face != "logits":
            raise ConfigError(
                f"{self.name}: has the face '{self.export.face}', whose outputs are features; export it with "
                "--face logits to classify"
            )
        return self.outputs(images)["logits"].float()

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
            results.append({name: values[: len(chunk)] for name, values in self._graph(filled).items()})
        return {name: torch.from_numpy(np.concatenate([result[name] for result in results])) for name in results[0]}

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
        above = int((scores[:count] >= options.score_threshold).sum())  # sorted by descending score
        kept = slice(min(above, options.max_detections))
        results.append(Detections(boxes[kept], scores[kept], labels[kept].long()))
    return results
