"""Video files of every container, damaged and cut: each frame that is given is whole, and what is missing is reported.

The sound videos are encoded once per process.
"""

from __future__ import annotations

import functools
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from effdet.data.media_files import MAX_PIXELS_VARIABLE
from effdet.data.video import check_video, read_video

from .border import MARK, Border, damages
from .mutate import mutate_bytes

CUT = "cut"  # a file beside a video of which only the end is missing
_FRAMES, _SIZE = 30, (48, 64)
_CUTS = 0.4  # of the inputs
_MOST_PIXELS = 1_000_000


class _Kind(NamedTuple):
    """How a video is written, and the length of the packets between which a cut leaves no trace."""

    suffix: str
    codec: str
    container: str | None = None
    options: dict[str, str] | None = None
    packet: int = 0


_KINDS = {
    "mp4": _Kind(".mp4", "libx264"),
    "fragmented mp4": _Kind(".mp4", "libx264", options={"movflags": "frag_keyframe+empty_moov"}),
    "mov": _Kind(".mov", "mpeg4"),
    "avi": _Kind(".avi", "mjpeg"),
    "mkv": _Kind(".mkv", "libx264"),
    "webm": _Kind(".webm", "libvpx"),
    "flv": _Kind(".flv", "flv"),
    "wmv": _Kind(".wmv", "wmv2"),
    "mpg": _Kind(".mpg", "mpeg2video"),
    "ts": _Kind(".ts", "libx264", packet=188),
    "mxf": _Kind(".mxf", "mpeg2video"),
    "ogv": _Kind(".ogv", "libvpx", "ogg"),
}


@functools.cache
def _encoded(name: str) -> bytes:
    """A video of `_FRAMES` frames, in which a square moves over noise."""
    import av

    kind = _KINDS[name]
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"video{kind.suffix}")
        with av.open(str(path), "w", format=kind.container, options=kind.options or {}) as container:
            stream: Any = container.add_stream(kind.codec, rate=25)
            stream.height, stream.width = _SIZE
            stream.pix_fmt = "yuvj420p" if kind.codec == "mjpeg" else "yuv420p"
            if kind.codec == "libvpx":
                stream.options = {"deadline": "realtime", "cpu-used": "8"}
            for number in range(_FRAMES):
                image = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                image[4:20, number : number + 16] = 255
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        return path.read_bytes()


def _make(name: str) -> Callable[[random.Random, Path], Path]:
    """The function that writes a video, whole, cut or damaged, into the folder of a case."""

    def make(rng: random.Random, folder: Path) -> Path:
        kind, data = _KINDS[name], _encoded(name)
        number = damages(rng, folder)
        if number and rng.random() < _CUTS:
            kept = rng.randrange(1, len(data))
            data = data[: kept - (kind.packet > 0 and kept % kind.packet == 0)]
            (folder / CUT).touch()
        else:
            for _ in range(number):
                data = mutate_bytes(rng, data)
        path = folder / f"video{kind.suffix}"
        path.write_bytes(data)
        return path

    return make


def _read(path: Path) -> None:
    os.environ[MAX_PIXELS_VARIABLE] = str(_MOST_PIXELS)
    count = check_video(path)
    assert count is None or count > 0, f"{count} frames"
    read, previous = 0, -1.0
    for time, image in read_video(path):
        read += 1
        assert previous < time < float("inf"), f"time {time} after {previous}"
        assert image.dtype == np.uint8, f"pixels of {image.dtype}"
        assert image.ndim == 3, f"shape {image.shape}"
        assert image.shape[2] == 3, f"shape {image.shape}"
        assert 0 < image.shape[0] * image.shape[1] <= _MOST_PIXELS, f"shape {image.shape}"
        previous = time
    if (path.parent / MARK).exists():
        assert read == _FRAMES, f"{read} of {_FRAMES} frames"
    if (path.parent / CUT).exists():
        assert read == _FRAMES, f"{read} of {_FRAMES} frames of a cut video, which is not reported"


BORDERS = tuple(Border(f"video {name}", _make(name), _read, seconds=20.0, heavy=True) for name in _KINDS)
