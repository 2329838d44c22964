"""A checkpoint at work: images of any size in, detections in pixels of those images out, in order, batch by batch.

Where images come from is told in `sources.py`; nothing is drawn or written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from effdet.config import make_config
from effdet.data.annotations import LabelMap
from effdet.data.images import Image, letterbox, read_image, undo_letterbox
from effdet.devices import pick_device, place
from effdet.errors import ConfigError
from effdet.inference import BATCH_SIZE, SCORE_THRESHOLD
from effdet.inference.sources import Frame, check_array
from effdet.postprocess import Suppression, postprocess
from effdet.structures import Detections
from effdet.weights.checkpoint import load_checkpoint

ImageLike = str | Path | Image
Letterboxed = tuple[Frame, Image, tuple[float, float]]


class Predictor:
    """Finds objects with the model of a checkpoint.

    Attributes:
        label_map: the classes of the model.
        image_size: (H, W) of the network input in pixels; images are letterboxed to it.
        device: where the model runs.
        batch_size: images per forward pass.
    """

    def __init__(
        self,
        weights: str | Path,
        device: str | None = None,
        *,
        score_threshold: float = SCORE_THRESHOLD,
        suppression: Suppression | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """A predictor from a checkpoint such as runs/NAME/best.pt; what is None is as the model was evaluated.

        Args:
            weights: path of the checkpoint.
            device: such as 'cuda:0' or 'cpu'; None takes a GPU where there is one.
            score_threshold: smallest score of a detection.
            suppression: of duplicates, see `postprocess`.
            iou_threshold: overlap from which hard suppression drops the lower score.
            max_detections: most detections of an image.
            batch_size: images per forward pass.

        Raises:
            WeightsError: the file is missing, damaged or no checkpoint.
            ConfigError: an argument is out of its range, or there is no such device.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
        self.device = pick_device(device)
        checkpoint = load_checkpoint(weights)
        given = {"suppression": suppression, "iou_threshold": iou_threshold, "max_detections": max_detections}
        overrides = {key: value for key, value in given.items() if value is not None}
        settings = {**checkpoint.card.postprocess, "score_threshold": score_threshold, **overrides}
        self._settings = make_config({"postprocess": settings}, source="Predictor").postprocess
        self.label_map = LabelMap(checkpoint.card.class_names, checkpoint.card.category_ids)
        self.image_size = checkpoint.model.image_size
        self.batch_size = batch_size
        self._fill = checkpoint.model.fill_color
        self._model = place(checkpoint.model, self.device)

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> Iterator[Detections]:
        """Detections of each image, in order, boxes in pixels of the image; read and computed while they are taken.

        Args:
            images: paths of image files and uint8 RGB arrays [H, W, 3], in any mix of sizes; or one of these.

        Raises:
            DataError: an image cannot be read or an array is of another type; raised when its turn comes.
        """
        for _, detections in self.predict_frames(_frame_of(image) for image in _each(images)):
            yield detections

    def predict_frames(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Detections]]:
        """Each frame with its detections, in order; at most two batches of frames are in memory.

        While the network runs, a thread of its own takes the next batch from `frames`.
        """
        stream = iter(frames)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="frames") as reader:
            pending = reader.submit(self._read_batch, stream)
            while True:
                batch, error = pending.result()
                if batch and error is None:
                    pending = reader.submit(self._read_batch, stream)
                yield from self._detect(batch)
                if error is not None:
                    raise error
                if not batch:
                    return

    def _read_batch(self, frames: Iterator[Frame]) -> tuple[list[Letterboxed], Exception | None]:
        """The next frames at the input size; with the error that ended them early, so that none before it is lost."""
        batch: list[Letterboxed] = []
        try:
            for frame in islice(frames, self.batch_size):
                batch.append((frame, *letterbox(frame.image, self.image_size, self._fill)))
        except Exception as error:
            return batch, error
        return batch, None

    def _detect(self, batch: list[Letterboxed]) -> list[tuple[Frame, Detections]]:
        if not batch:
            return []
        pixels = np.stack([image for _, image, _ in batch])
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)  # channels last in memory
        with torch.inference_mode():  # ends before the detections are made, which users may change in place
            outputs = self._model(images)
        found = postprocess(outputs, **self._settings.model_dump())
        return [
            (frame, self._in_frame(detections.cpu(), frame, scale))
            for detections, (frame, _, scale) in zip(found, batch, strict=True)
        ]

    def _in_frame(self, detections: Detections, frame: Frame, scale: tuple[float, float]) -> Detections:
        height, width = frame.image.shape[:2]
        boxes = undo_letterbox(detections.boxes, scale, (height, width))
        return replace(detections, boxes=boxes, class_names=self.label_map.names)


def _each(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]
    return images


def _frame_of(image: ImageLike) -> Frame:
    if isinstance(image, (str, Path)):
        return Frame(read_image(image), Path(image), Path(Path(image).name))
    return Frame(check_array(image), Path("array"), Path("array"))
