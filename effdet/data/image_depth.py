"""The one rule by which values of any type and number of channels become uint8 RGB.

Files are decoded in `images.py`; arrays and PIL images of Python come from `inference/inputs.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.errors import ConfigError, DataError

USUAL_DEPTHS = (8, 10, 12, 14, 16)  # bits per channel of cameras and scanners

_BLOCK = 1 << 22  # values that are scaled at once
ALPHA_DROPPED = "alpha channel dropped"
NAN_TO_BLACK = "NaN pixels set to black"
CLIPPED = "values outside data.value_range clipped"


def to_rgb(
    pixels: NDArray[Any], name: str, value_range: tuple[float, float] | None = None
) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels as uint8 RGB [H, W, 3], and a note for each change to their values.

    Grey becomes RGB. An alpha channel is dropped: transparent pixels show the color stored in them. 8-bit values stay
    as they are. Others are mapped from `value_range` to 0..255 and clipped. Without it, integers are scaled by the
    smallest usual bit depth (8, 10, 12, 14 or 16) that holds the largest value of the image, and floats must lie in
    0..1. NaN becomes black.

    Args:
        pixels: [H, W] or [H, W, C], C = 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha).
        name: what to call the image in messages.
        value_range: the values to show as black and as white, in images of more than 8 bits.

    Raises:
        DataError: another shape or type, or the values need a `value_range`.
        ConfigError: `value_range` is not (low, high) with low < high.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or not pixels.size or pixels.dtype.kind not in "buif":
        raise DataError(
            f"{name}: type {pixels.dtype} and shape {list(pixels.shape)}; expected numbers of shape [H, W] or "
            "[H, W, C] with 1 to 4 channels: grey or RGB, with or without alpha"
        )
    notes = []
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
        notes.append(ALPHA_DROPPED)
    if pixels.dtype == np.bool_:
        pixels = pixels * np.uint8(255)
    elif pixels.dtype != np.uint8:
        pixels, more = _to_8_bits(pixels, name, value_range)
        notes += more
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), notes


def _to_8_bits(
    values: NDArray[Any], name: str, value_range: tuple[float, float] | None
) -> tuple[NDArray[np.uint8], list[str]]:
    notes = []
    if values.dtype.kind == "f":
        undefined = np.isnan(values)
        if undefined.any():
            notes.append(NAN_TO_BLACK)
        values = np.where(undefined, value_range[0] if value_range else 0, values)
    smallest, largest = values.min(), values.max()
    if value_range is None:
        low, high = 0, _full_scale(values.dtype, float(smallest), float(largest), name)
        kind = "float" if values.dtype.kind == "f" else f"{8 * values.dtype.itemsize}-bit"
        notes.append(f"{kind} values scaled from 0..{high} to 0..255")
    else:
        low, high = value_range  # type: ignore[assignment]
        if not low < high or not np.isfinite([low, high]).all():
            raise ConfigError(f"data.value_range is [{low}, {high}]; expected [low, high] with low < high")
        notes.append(f"values mapped from {low:g}..{high:g} to 0..255")
        if smallest < low or largest > high:
            notes.append(CLIPPED)
    if values.dtype == np.uint16:  # by a table, which is several times faster
        return _scaled(np.arange(int(largest) + 1), low, high)[values], notes
    return _scaled(values, low, high), notes


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values mapped linearly, so that `low` is 0 and `high` 255, rounded and clipped."""
    scaled = np.empty(values.shape, np.uint8)
    step = max(1, _BLOCK // max(1, values[:1].size))
    for first in range(0, len(values), step):  # so that the memory for large images is bounded
        block = values[first : first + step].astype(np.float64)
        # Clipped first: the product of the largest floats would overflow.
        scaled[first : first + step] = np.rint((np.clip(block, low, high) - low) / (high - low) * 255)
    return scaled


def _full_scale(dtype: np.dtype[Any], smallest: float, largest: float, name: str) -> int:
    """The value to show as white, for values whose range is not given."""
    if dtype.kind == "f":
        if smallest >= 0 and largest <= 1:
            return 1
        usual = "floats are shown without it if they lie in 0..1"
    else:
        depth = next((bits for bits in USUAL_DEPTHS if largest < 2**bits), None)
        if smallest >= 0 and depth:
            return int(2**depth) - 1
        usual = "integers are shown without it if they lie in 0..65535"
    raise DataError(
        f"{name}: {dtype} values from {smallest:g} to {largest:g}; set data.value_range to [low, high], the values to "
        f"show as black and as white ({usual})"
    )
