"""The demo video: objects of several classes that swing and rotate over a fixed background.

Shapes, surfaces and the camera are those of the scenes, from `shapes`, `textures` and `scenes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.synthetic.scenes import check_parameters, draw_camera, generator
from effdet.data.synthetic.shapes import CLASS_NAMES, Pixels, draw_shape
from effdet.data.synthetic.textures import blend, draw_background, draw_surface
from effdet.data.video_writer import VideoWriter
from effdet.errors import DataError

VIDEO_SPLIT = 2  # second word of the seed; those of the images are in `files.SPLITS`


def write_video(path: Path, num_frames: int, size: tuple[int, int], seed: int, fps: float = 12) -> None:
    """Write an MP4 video of `size` (H, W), in which objects of several classes move over a fixed background.

    Raises:
        DataError: the size or the seed is too small, or the file cannot be written.
    """
    check_parameters(size, seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: the folder of the video cannot be created: {error}") from None
    with VideoWriter(path) as writer:
        for number, frame in enumerate(_draw_frames(num_frames, size, seed)):
            writer.write(frame, number / fps)


@dataclass(frozen=True)
class _Mover:
    """An object of the video, swinging to and fro within the frame while it rotates.

    Attributes:
        surface: [h, w, 3], its texture.
        mask: [h, w], its opacity.
        phase: (x, y) of its swing at the start, radians.
        speed: (x, y) change of the phase from frame to frame.
        spin: radians it rotates from frame to frame.
    """

    surface: Pixels
    mask: Pixels
    phase: NDArray[np.float64]
    speed: NDArray[np.float64]
    spin: float

    def paint(self, image: Pixels, time: int) -> None:
        """Paint the object at its position in frame `time`."""
        from effdet.opencv import cv2

        frame = np.array(image.shape[1::-1])
        patch = np.array(self.mask.shape[::-1])
        room = frame / 2 - np.hypot(*patch) / 2
        centre = frame / 2 + room * np.sin(self.phase + self.speed * time)
        cos, sin = np.cos(self.spin * time), np.sin(self.spin * time)
        turn = np.array([[cos, -sin], [sin, cos]])
        matrix = np.column_stack([turn, centre - turn @ (patch / 2)])
        surface = cv2.warpAffine(self.surface, matrix, frame.tolist(), borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(self.mask, matrix, frame.tolist())
        blend(image, np.asarray(surface, np.uint8), np.asarray(mask, np.uint8))


def _draw_frames(number: int, size: tuple[int, int], seed: int) -> Iterator[Pixels]:
    rng = generator(seed, VIDEO_SPLIT, 0)
    background = draw_background(rng, size)
    movers = [_draw_mover(rng, background, int(label)) for label in rng.permutation(len(CLASS_NAMES))[:5]]
    camera = draw_camera(rng)
    for time in range(number):
        image = background.copy()
        for mover in movers:
            mover.paint(image, time)
        yield camera.photograph(rng, image)


def _draw_mover(rng: np.random.Generator, background: Pixels, label: int) -> _Mover:
    mask, kernel = draw_shape(rng, label, min(background.shape[:2]) * rng.uniform(0.15, 0.35))
    surface = draw_surface(rng, background, mask, kernel, label / len(CLASS_NAMES))
    phase, speed = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.02, 0.06, 2)
    return _Mover(surface, mask, phase, speed, rng.uniform(-0.06, 0.06))
