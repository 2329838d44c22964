"""Image files of every format, damaged: what is decoded is what was stored, or it is refused.

Sound images are drawn in `image_files.py`, what must hold for decoded ones is in `sound_images.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from .border import Border, damages
from .image_files import DRAWN, Drawn
from .mutate import mutate_bytes
from .sound_images import CUT, WHOLE, check_image_file

_CUTS = 0.25  # of the inputs, which are files whose end is missing and nothing else
_TOKENS = {
    "jpeg": (
        b"\xff\xd9",
        b"\xff\xd8",
        b"\xff\xda",
        b"\xff\xc0",
        b"\xff\xd0",
        b"\xff\x00",
        b"Exif\0\0II*\0",
        b"\xff\xff",
    ),
    "png": (b"IDAT", b"IEND", b"tRNS", b"PLTE", b"acTL", b"fdAT", b"eXIf", b"\0\0\0\0IEND\xae\x42\x60\x82"),
    "webp": (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANMF", b"EXIF"),
    "gif": (b"\x2c", b"\x3b", b"\x21\xf9\x04", b"GIF87a", b"NETSCAPE2.0"),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"\x01\x01\x03\0", b"\x42\x01\x04\0"),
    "netpbm": (b"#", b"P6", b"P1 ", b"65535", b"99999 99999\n", b"ENDHDR\n", b" "),
    "jpeg 2000": (b"\xff\x93", b"\xff\xd9", b"\xff\x52", b"jp2c", b"ihdr", b"\xff\x51"),
    "avif": (b"ispe", b"av01", b"mdat", b"iloc", b"avis", b"heic"),
}


def _make(name: str, draw: Callable[[random.Random], Drawn]) -> Callable[[random.Random, Path], Path]:
    """The function that writes one image, whole or damaged, into the folder of a case."""

    def make(rng: random.Random, folder: Path) -> Path:
        drawn = draw(rng)
        data, path = drawn.data, folder / f"image{drawn.suffix}"
        number = damages(rng, folder)
        if not number:
            drawn.write_truth(folder)
        elif rng.random() < _CUTS:
            data = data[: rng.randrange(1, len(data))]
            (folder / CUT).touch()
        else:
            for _ in range(number):
                data = mutate_bytes(rng, data, _TOKENS.get(name, ()))
        (folder / WHOLE).write_bytes(drawn.data)
        path.write_bytes(data)
        return path

    return make


BORDERS = tuple(Border(name, _make(name, draw), check_image_file) for name, draw in DRAWN.items())
