"""Prediction: images of any size in; detections in pixels of those images, or the most probable classes, out.

Folders and videos are opened in `sources.py`; files are written in `jobs.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch

from effdet.data.images import Image
from effdet.data.label_map import LabelMap
from effdet.devices import pick_device
from effdet.errors import ConfigError
from effdet.inference import BATCH_SIZE, ThresholdChoice
from effdet.inference.inputs import ImageLike, is_image, to_pixels
from effdet.inference.sources import Frame
from effdet.inference.steps import STEPS, DetectionSteps
from effdet.runtimes.opening import open_model
from effdet.structures import Classification, Detections
from effdet.types import NmsMethod, Precision, Task

Tag = TypeVar("Tag")


class Predictor:
    """Runs the model of a checkpoint, of an exported file or of public weights on images.

    Example:
        >>> predictor = effdet.Predictor("runs/mine/best.pt")
        >>> detections = predictor("street.jpg")
        >>> for box, score, label, name in detections:
        ...     print(name, score, box)
        >>> detections.save("drawn.jpg")
        >>> for path, detections in zip(paths, predictor.stream(paths)):
        ...     print(path, len(detections))

    Attributes:
        task: what the model was trained for.
        label_map: the classes of the model.
        value_range: see `data.value_range` of the recipe.
        image_size: (H, W) of the network input in pixels.
        device: where the model runs.
        batch_size: images per forward pass.
        confidence: the confidence threshold and where it is from, in words; empty for classifiers.
    """

    def __init__(
        self,
        weights: str | Path,
        device: str | None = None,
        *,
        score_threshold: ThresholdChoice = "auto",
        calibrated: bool = False,
        nms: NmsMethod | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        top: int | None = None,
        batch_size: int = BATCH_SIZE,
        precision: Precision = "auto",
        threads: int | None = None,
        metadata: str | Path | None = None,
    ) -> None:
        """A predictor from a checkpoint such as runs/NAME/best.pt, an exported file, or public weights.

        Settings of None are those with which the model was evaluated. The first five are for detectors, `top` is for
        classifiers.

        Args:
            weights: path of the checkpoint or exported file, or a name of `effdet weights list`.
            device: such as 'cuda:0' or 'cpu'; None for a GPU if there is one.
            score_threshold: lowest confidence of a detection, 0..1; "auto" for the threshold of the best F1 on the
                validation split, which best.pt stores, or 0.3 for models without; "class" for that of each class.
            calibrated: whether scores are calibrated to the fraction of detections that are correct, by the temperature
                that best.pt stores. A `score_threshold` that is a number is then one of calibrated scores.
            nms: see `PostprocessOptions`.
            iou_threshold: IoU above which hard NMS drops the box of lower score, 0..1.
            max_detections: most detections per image.
            top: number of most probable classes per image.
            batch_size: images per forward pass.
            precision: of the arithmetic in PyTorch; 'auto' is float16 on CUDA and float32 elsewhere. An exported file
                has its own.
            threads: CPU threads of the runtime; None for its own choice.
            metadata: for an exported file whose metadata is missing: its checkpoint, or a JSON file with the metadata.

        Raises:
            WeightsError: the file is missing, damaged or of an unknown kind, or the public weights are not available.
            ConfigError: an argument is out of range, for the other task or for another kind of file, there is no such
                device, or the runtime of the file is not installed.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
        picked = pick_device(device)
        card, start, _ = open_model(weights, threads=threads, metadata=metadata)
        self._runtime = start(picked, precision)
        self.device, self.image_size = self._runtime.device, self._runtime.image_size
        self.task: Task = card.task
        self.label_map = LabelMap(card.class_names, card.category_ids)
        self.value_range = card.value_range
        self.batch_size = batch_size
        settings = {
            "score_threshold": None if score_threshold == "auto" else score_threshold,
            "calibrated": calibrated or None,
            "nms": nms,
            "iou_threshold": iou_threshold,
            "max_detections": max_detections,
            "top": top,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        _check_settings(given, card.task, weights)
        self._steps = STEPS[card.task](card, given, self._runtime, str(weights))
        self.confidence = self._steps.confidence.text if isinstance(self._steps, DetectionSteps) else ""

    @overload
    def __call__(self, images: ImageLike) -> Detections | Any: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Iterable[ImageLike]) -> list[Detections | Any]: ...

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> Any:
        """The `Detections` of one image, boxes in its pixels, or a list with those of each image of several.

        A classifier gives `Classification`; the types say `Detections | Any`, so that neither needs a cast. Results
        know what they were given (a path, an array ...) and can draw on it. Use `stream` for more images than fit into
        memory.

        Args:
            images: one image, or a list or other iterable of images in any mix of sizes. An image is a path, the bytes
                of an image file, a PIL image, a uint8 RGB array [H, W, 3] or a uint8 tensor [3, H, W].

        Raises:
            DataError: an image cannot be read, or is of another kind.
        """
        if is_image(images):
            image = cast("ImageLike", images)
            batch = [self._read(image, to_pixels(image, self.value_range))]  # one image needs no reading thread
            return self._known(self._predict(batch))[0]
        value_range = self.value_range
        several = cast("Iterable[ImageLike]", images)
        return self._known(self._run((image, to_pixels(image, value_range)) for image in several))

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Detections | Any]:
        """The results for an iterable of images of any length, in order, each computed when it is asked for.

        At most two batches of images are in memory. Results do not know their images, so give them one to draw on:
        `detections.draw(image)`.

        Args:
            images: see `__call__`.

        Raises:
            DataError: an image cannot be read, or is of another kind; raised after the results of those before it.
        """
        for _, result in self._run((None, to_pixels(image, self.value_range)) for image in images):
            yield result

    def predict_frames(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Detections | Classification]]:
        """Each frame with its result, in order; at most two batches of frames are in memory.

        Example:
            >>> for frame, detections in predictor.predict_frames(read_frames(open_sources(["clip.mp4"]))):
            ...     print(frame.index, len(detections))
        """
        return self._run((frame, frame.image) for frame in frames)

    def _known(
        self, pairs: Iterable[tuple[ImageLike, Detections | Classification]]
    ) -> list[Detections | Classification]:
        """The results, which know their images."""
        value_range = self.value_range
        return [replace(result, load_image=functools.partial(to_pixels, image, value_range)) for image, result in pairs]

    def _run(self, images: Iterable[tuple[Tag, Image]]) -> Iterator[tuple[Tag, Detections | Classification]]:
        """The result for each image, with the tag that came with it.

        While the network runs, another thread reads the next batch.
        """
        stream = iter(images)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="frames") as reader:
            pending = reader.submit(self._read_batch, stream)
            while True:
                batch, error = pending.result()
                if batch and error is None:
                    pending = reader.submit(self._read_batch, stream)
                if batch:
                    yield from self._predict(batch)
                if error is not None:
                    raise error
                if not batch:
                    return

    def _read(self, tag: Tag, image: Image) -> tuple[Tag, Image, tuple[float, float], tuple[int, int]]:
        """Tag, pixels at the input size, scale and original size of an image."""
        return (tag, *self._steps.resize(image), image.shape[:2])

    def _read_batch(
        self, images: Iterator[tuple[Tag, Image]]
    ) -> tuple[list[tuple[Tag, Image, tuple[float, float], tuple[int, int]]], Exception | None]:
        """The next images, see `_read`.

        If an error ends them early it is returned too, so that no image before it is lost.
        """
        batch: list[tuple[Tag, Image, tuple[float, float], tuple[int, int]]] = []
        try:
            for tag, image in islice(images, self.batch_size):
                batch.append(self._read(tag, image))
        except Exception as error:
            return batch, error
        return batch, None

    def _predict(
        self, batch: list[tuple[Tag, Image, tuple[float, float], tuple[int, int]]]
    ) -> list[tuple[Tag, Detections | Classification]]:
        pixels = batch[0][1][None] if len(batch) == 1 else np.stack([image for _, image, _, _ in batch])
        pixels = np.require(pixels, requirements="W")  # torch accepts no read-only arrays
        results: Sequence[Detections | Classification] = self._steps.results(
            torch.from_numpy(pixels).permute(0, 3, 1, 2),  # channels last in memory
            [scale for _, _, scale, _ in batch],
            [size for _, _, _, size in batch],
        )
        names = self.label_map.names
        return [(row[0], replace(result, class_names=names)) for row, result in zip(batch, results, strict=True)]


_SETTINGS: dict[Task, tuple[str, ...]] = {
    "detection": ("score_threshold", "calibrated", "nms", "iou_threshold", "max_detections"),
    "classification": ("top",),
}
_MODELS: dict[Task, str] = {"detection": "detector", "classification": "classifier"}


def _check_settings(given: dict[str, Any], task: Task, weights: str | Path) -> None:
    """Raises ConfigError if a setting is for a model of another task."""
    for other, names in _SETTINGS.items():
        wrong = [name for name in names if name in given]
        if other != task and wrong:
            names_are = f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'}"
            raise ConfigError(
                f"{names_are} for {_MODELS[other]}s, but {weights} is a {_MODELS[task]}; leave "
                f"{'it' if len(wrong) == 1 else 'them'} out"
            )
