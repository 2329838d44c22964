"""Small images that are drawn from a seed and encoded in every format that is read, with the pixels that they show.

They are damaged in `borders_images.py`.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

TRUTH = "truth.npz"  # beside an undamaged image: what must be decoded


class Drawn(NamedTuple):
    """An encoded image, the suffix of its file, and the pixels RGB [H, W, 3] that it shows.

    Attributes:
        tolerance: how far a decoded value may be from `pixels`; 255 where only the size is compared.
    """

    data: bytes
    suffix: str
    pixels: NDArray[np.uint8]
    tolerance: int

    def write_truth(self, folder: Path) -> None:
        """Writes what must be decoded."""
        np.savez(folder / TRUTH, pixels=self.pixels, tolerance=self.tolerance)


def _picture(rng: random.Random, mode: str = "RGB") -> Image.Image:
    """A smooth picture of up to 40 x 40 pixels."""
    generator = np.random.default_rng(rng.getrandbits(32))
    small = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    size = rng.randint(3, 40), rng.randint(3, 40)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def _encoded(image: Image.Image, suffix: str, tolerance: int, **options: Any) -> Drawn:
    buffer = io.BytesIO()
    image.save(buffer, {".jp2": "JPEG2000", ".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()), **options)
    data = buffer.getvalue()
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    shown = shown.convert("RGBA").convert("RGB") if "A" in shown.mode or "transparency" in shown.info else shown
    return Drawn(data, suffix, np.asarray(shown.convert("RGB")), tolerance)


def _by_opencv(pixels: NDArray[Any], suffix: str, tolerance: int) -> Drawn:
    from effdet.opencv import cv2

    data = bytes(cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1])
    shown = pixels if pixels.dtype == np.uint8 else np.zeros(pixels.shape, np.uint8)
    return Drawn(data, suffix, np.broadcast_to(shown.reshape(*shown.shape[:2], -1), (*shown.shape[:2], 3)), tolerance)


def _exif(rng: random.Random) -> dict[str, Any]:
    """Options of an encoder that writes an orientation, sometimes none."""
    exif = Image.Exif()
    exif[0x0112] = rng.randint(1, 8)
    return {"exif": exif} if rng.random() < 0.6 else {}


def _jpeg(rng: random.Random) -> Drawn:
    options = {"quality": rng.choice((30, 90)), "progressive": rng.random() < 0.4, "subsampling": rng.randint(0, 2)}
    mode = rng.choice(("RGB", "RGB", "L", "CMYK"))
    return _encoded(_picture(rng, mode), ".jpg", 4, **options, **_exif(rng))


def _png(rng: random.Random) -> Drawn:
    kind = rng.randrange(4)
    if kind == 0:
        return _by_opencv(_deep(rng, np.uint16), ".png", 255)
    if kind == 1:
        frames = [_picture(rng) for _ in range(1)]
        frames.append(frames[0].transpose(Image.Transpose.ROTATE_180))
        return _encoded(frames[0], ".png", 0, save_all=True, append_images=frames[1:])
    return _encoded(_picture(rng, rng.choice(("1", "L", "P", "RGB", "LA", "RGBA"))), ".png", 0, **_exif(rng))


def _deep(rng: random.Random, dtype: Any) -> NDArray[Any]:
    """Pixels of more than 8 bits, grey or RGB."""
    pixels = np.asarray(_picture(rng, rng.choice(("L", "RGB"))))
    return (pixels.astype(np.float64) / 255 * (65535 if dtype == np.uint16 else 1)).astype(dtype)


def _bmp(rng: random.Random) -> Drawn:
    return _encoded(_picture(rng, rng.choice(("1", "L", "P", "RGB"))), ".bmp", 0)


def _gif(rng: random.Random) -> Drawn:
    image = _picture(rng, "P")
    more = {"save_all": True, "append_images": [image.rotate(90)]} if rng.random() < 0.4 else {}
    return _encoded(image, ".gif", 0, **more)


def _webp(rng: random.Random) -> Drawn:
    image = _picture(rng, rng.choice(("RGB", "RGBA")))
    more = {"save_all": True, "append_images": [image.rotate(180)]} if rng.random() < 0.3 else {}
    return _encoded(image, ".webp", 3, lossless=rng.random() < 0.5, **more, **_exif(rng))


def _tiff(rng: random.Random) -> Drawn:
    if rng.random() < 0.25:
        return _by_opencv(_deep(rng, rng.choice((np.uint16, np.float32))), ".tiff", 255)
    mode = rng.choice(("1", "L", "P", "RGB", "RGBA", "CMYK"))
    compression = rng.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"))
    if compression == "jpeg" and mode not in ("L", "RGB"):
        compression = None
    image = _picture(rng, mode)
    more = {"save_all": True, "append_images": [image]} if rng.random() < 0.2 else {}
    return _encoded(image, ".tif", 255 if mode in ("CMYK", "1") else 4, compression=compression, **more)


def _netpbm(rng: random.Random) -> Drawn:
    if rng.random() < 0.2:
        return _by_opencv(_deep(rng, np.float32), ".pfm", 255)
    if rng.random() < 0.3:
        return _by_opencv(np.asarray(_picture(rng, rng.choice(("L", "RGB")))), ".pam", 0)
    return _encoded(_picture(rng, rng.choice(("1", "L", "RGB"))), ".ppm", 0)


def _jpeg_2000(rng: random.Random) -> Drawn:
    return _encoded(_picture(rng, rng.choice(("L", "RGB"))), ".jp2", 1, no_jp2=rng.random() < 0.3)


def _avif(rng: random.Random) -> Drawn:
    return _encoded(_picture(rng, rng.choice(("RGB", "RGBA"))), ".avif", 6, speed=10, **_exif(rng))


def _heif(rng: random.Random) -> Drawn:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(_picture(rng)).save(buffer)
    shown = pillow_heif.read_heif(buffer.getvalue()).to_pillow()
    return Drawn(buffer.getvalue(), ".heic", np.asarray(shown.convert("RGB")), 2)


DRAWN: dict[str, Callable[[random.Random], Drawn]] = {
    "jpeg": _jpeg,
    "png": _png,
    "bmp": _bmp,
    "gif": _gif,
    "webp": _webp,
    "tiff": _tiff,
    "netpbm": _netpbm,
    "jpeg 2000": _jpeg_2000,
    "hdr": lambda rng: _by_opencv(_deep(rng, np.float32), ".hdr", 255),
    "sun raster": lambda rng: _by_opencv(np.asarray(_picture(rng)), ".ras", 0),
    **({"avif": _avif} if features.check("avif") else {}),
    **({"heic": _heif} if find_spec("pillow_heif") else {}),
}
