"""A checkpoint at work: images of any size in, detections in pixels of those images or their classes out, in order.

Where images come from is told in `sources.py`; nothing is drawn or written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from effdet.config import DetectionConfig, make_config
from effdet.data.images import Image, read_image
from effdet.data.label_map import LabelMap
from effdet.data.letterbox import letterbox, undo_letterbox
from effdet.data.resize import classification_view
from effdet.devices import move_to_device, pick_device
from effdet.errors import ConfigError, DataError
from effdet.inference import BATCH_SIZE, SCORE_THRESHOLD, TOP
from effdet.inference.sources import Frame, check_array
from effdet.models import EfficientDet, EfficientNet
from effdet.postprocess import classify, postprocess
from effdet.structures import Classification, Detections, Outputs
from effdet.types import NmsMethod, Task
from effdet.weights.create import open_checkpoint

ImageLike = str | Path | Image
Found = Detections | Classification
View = tuple[Frame, Image, tuple[float, float]]  # a frame, what the network sees of it, and at which scale


class Predictor:
    """Finds objects, or tells classes, with the model of a checkpoint.

    Attributes:
        task: what the model was trained for.
        label_map: the classes of the model.
        image_size: (H, W) of the network input in pixels.
        device: where the model runs.
        batch_size: images per forward pass.
    """

    def __init__(
        self,
        weights: str | Path,
        device: str | None = None,
        *,
        score_threshold: float | None = None,
        nms: NmsMethod | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        top: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """A predictor from a checkpoint such as runs/NAME/best.pt, or from public weights such as efficientdet_d0.

        What is None is as the model was evaluated, but that detections of a score below 0.3 are not shown. The first
        four settings are for detectors, `top` is for classifiers.

        Args:
            weights: path of the checkpoint, or a name of `effdet weights list`.
            device: such as 'cuda:0' or 'cpu'; None takes a GPU where there is one.
            score_threshold: smallest score of a detection.
            nms: of duplicates, see `postprocess`.
            iou_threshold: overlap from which hard suppression drops the lower score.
            max_detections: most detections of an image.
            top: classes that are told of an image.
            batch_size: images per forward pass.

        Raises:
            WeightsError: the file is missing, damaged or no checkpoint, or the public weights cannot be had.
            ConfigError: an argument is out of its range or for the other task, or there is no such device.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
        self.device = pick_device(device)
        checkpoint = open_checkpoint(weights)
        card = checkpoint.card
        self.task: Task = card.task
        self.label_map = LabelMap(card.class_names, card.category_ids)
        self.image_size = card.spec.image_size
        self.batch_size = batch_size
        given = {
            "score_threshold": score_threshold,
            "nms": nms,
            "iou_threshold": iou_threshold,
            "max_detections": max_detections,
        }
        settings = {key: value for key, value in given.items() if value is not None}
        model = checkpoint.model
        self._pipeline: _Detecting | _Classifying
        if isinstance(model, EfficientDet):
            if top is not None:
                raise ConfigError(f"top is for classifiers, but {weights} is a detector; leave it out")
            self._pipeline = _Detecting(model, {**card.postprocess, "score_threshold": SCORE_THRESHOLD, **settings})
        else:
            if settings:
                raise ConfigError(
                    f"settings of detections ({', '.join(settings)}) are for detectors, but {weights} is a classifier; "
                    "leave it out"
                )
            self._pipeline = _Classifying(model, TOP if top is None else top)
        self._model = move_to_device(model, self.device)

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> Iterator[Found]:
        """Detections of each image, boxes in pixels of the image, or its classes; in order, computed while taken.

        Args:
            images: paths of image files and uint8 RGB arrays [H, W, 3], in any mix of sizes; or one of these.

        Raises:
            DataError: an image cannot be read or an array is of another type; raised when its turn comes.
        """
        for _, found in self.predict_frames(_frame_of(image) for image in _each(images)):
            yield found

    def predict_frames(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Found]]:
        """Each frame with what is found in it, in order; at most two batches of frames are in memory.

        While the network runs, a thread of its own takes the next batch from `frames`.
        """
        stream = iter(frames)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="frames") as reader:
            pending = reader.submit(self._read_batch, stream)
            while True:
                batch, error = pending.result()
                if batch and error is None:
                    pending = reader.submit(self._read_batch, stream)
                yield from self._found(batch)
                if error is not None:
                    raise error
                if not batch:
                    return

    def _read_batch(self, frames: Iterator[Frame]) -> tuple[list[View], Exception | None]:
        """The next frames at the input size; with the error that ended them early, so that none before it is lost."""
        batch: list[View] = []
        try:
            for frame in islice(frames, self.batch_size):
                batch.append((frame, *self._pipeline.view(frame.image)))
        except Exception as error:
            return batch, error
        return batch, None

    def _found(self, batch: list[View]) -> list[tuple[Frame, Found]]:
        if not batch:
            return []
        pixels = np.stack([image for _, image, _ in batch])
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)  # channels last in memory
        with torch.inference_mode():  # ends before the results are made, which users may change in place
            outputs = self._model(images)
        results: Sequence[Found] = self._pipeline.results(outputs, batch)
        names = self.label_map.names
        return [(frame, replace(found, class_names=names)) for (frame, _, _), found in zip(batch, results, strict=True)]


class _Detecting:
    """Before and after a detector: letterbox, decoding and suppression, boxes back in the image."""

    def __init__(self, model: EfficientDet, settings: dict[str, Any]) -> None:
        config = make_config({"postprocess": settings}, source="Predictor")
        assert isinstance(config, DetectionConfig)
        self.settings = config.postprocess.model_dump()
        self.size, self.fill = model.image_size, model.spec.fill_color

    def view(self, image: Image) -> tuple[Image, tuple[float, float]]:
        """What the network sees, and network-input pixels per pixel of the image."""
        return letterbox(image, self.size, self.fill)

    def results(self, outputs: Outputs, batch: list[View]) -> list[Detections]:
        """Detections in host memory, boxes in pixels of the image."""
        found = [detections.cpu() for detections in postprocess(outputs, **self.settings)]
        return [
            replace(detections, boxes=undo_letterbox(detections.boxes, scale, frame.image.shape[:2]))
            for detections, (frame, _, scale) in zip(found, batch, strict=True)
        ]


class _Classifying:
    """Before and after a classifier: resize and crop as its weights want it, the most probable classes."""

    def __init__(self, model: EfficientNet, top: int) -> None:
        if top < 1:
            raise ConfigError(f"top is {top}; expected at least 1")
        self.spec, self.top = model.spec, top

    def view(self, image: Image) -> tuple[Image, tuple[float, float]]:
        """What the network sees; the scale is of no use."""
        spec = self.spec
        return classification_view(image, spec.image_size, spec.crop, spec.interpolation), (1.0, 1.0)

    def results(self, outputs: Tensor, batch: list[View]) -> list[Classification]:
        """Classes in host memory."""
        return [classification.cpu() for classification in classify(outputs, self.top)]


def _each(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]
    return images if hasattr(images, "__iter__") else [cast("ImageLike", images)]


def _frame_of(image: ImageLike) -> Frame:
    if isinstance(image, (str, Path)):
        return Frame(read_image(image), Path(image), Path(Path(image).name))
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"an image is a {type(image).__module__}.{type(image).__name__}; give its path, or an array such as "
            "numpy.asarray(image.convert('RGB')) of a PIL image"
        )
    return Frame(check_array(image), Path("array"), Path("array"))
