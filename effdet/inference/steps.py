"""What a predictor does before and after the network: resizing, post-processing, boxes in pixels of the image.

Reading images and batches is in `predictor.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from effdet.config import DetectionConfig, make_config
from effdet.data.images import Image
from effdet.data.letterbox import letterbox, undo_letterbox
from effdet.data.resize import classification_view
from effdet.errors import ConfigError
from effdet.inference import TOP
from effdet.inference.confidence import choose_confidence
from effdet.postprocess import classify
from effdet.runtimes.exported import ExportedRuntime
from effdet.runtimes.runtime import Runtime
from effdet.structures import Classification, Detections
from effdet.types import PostprocessOptions, Task
from effdet.weights.card import ModelCard

_CONFIDENCE = ("score_threshold", "calibrated")  # settings that `choose_confidence` reads


class DetectionSteps:
    """Before and after a detector: letterbox; postprocessing, boxes back in pixels of the image.

    Attributes:
        confidence: the confidence thresholds, and whether scores are calibrated.
        options: NMS, and the lowest confidence threshold.
    """

    def __init__(self, card: ModelCard, settings: dict[str, Any], runtime: Runtime, weights: str) -> None:
        given = {name: value for name, value in settings.items() if name not in _CONFIDENCE}
        choice, calibrated = settings.get("score_threshold", "auto"), settings.get("calibrated", False)
        if not isinstance(choice, str):
            given["score_threshold"] = choice
        config = make_config({"postprocess": {**card.postprocess, **given}}, source="Predictor")
        assert isinstance(config, DetectionConfig)
        options = PostprocessOptions(**config.postprocess.model_dump())
        fixed = runtime.export.postprocess if isinstance(runtime, ExportedRuntime) else None
        self.confidence = choose_confidence(card, choice, calibrated, fixed.score_threshold if fixed else 0.0, weights)
        self.options = replace(options, score_threshold=self.confidence.lowest)
        if isinstance(runtime, ExportedRuntime):
            runtime.check_options(self.options)
        self.spec: Any = card.spec
        self.runtime = runtime

    def resize(self, image: Image) -> tuple[Image, tuple[float, float]]:
        """The network input of an image, and network-input pixels per pixel of the image."""
        return letterbox(image, self.spec.image_size, self.spec.fill_color, self.spec.antialias, self.spec.letterbox)

    def results(
        self, images: Tensor, scales: Sequence[tuple[float, float]], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detections in host memory, boxes in pixels of the images."""
        results = map(self.confidence.apply, self.runtime.detections(images, self.options))
        return [
            replace(detections, boxes=undo_letterbox(detections.boxes, scale, size))
            for detections, scale, size in zip(results, scales, sizes, strict=True)
        ]


class ClassificationSteps:
    """Before and after a classifier: resize and crop as its weights expect; the most probable classes."""

    def __init__(self, card: ModelCard, settings: dict[str, Any], runtime: Runtime, weights: str) -> None:
        self.top = settings.get("top", TOP)
        if self.top < 1:
            raise ConfigError(f"top is {self.top}; expected at least 1")
        self.spec: Any = card.spec
        self.runtime = runtime

    def resize(self, image: Image) -> tuple[Image, tuple[float, float]]:
        """The network input of an image; the scale is not used."""
        spec = self.spec
        return classification_view(image, spec.image_size, spec.crop, spec.interpolation), (1.0, 1.0)

    def results(
        self, images: Tensor, scales: Sequence[tuple[float, float]], sizes: Sequence[tuple[int, int]]
    ) -> list[Classification]:
        """Classes in host memory."""
        return classify(self.runtime.logits(images), self.top)


STEPS: dict[Task, type[DetectionSteps] | type[ClassificationSteps]] = {
    "detection": DetectionSteps,
    "classification": ClassificationSteps,
}
