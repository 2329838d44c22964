"""Text in any script, drawn onto an image with Pillow: which fonts, how large a text is, and its pixels.

Where labels and lines stand is decided in `boxes.py`.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_LONGEST = 500  # characters that are drawn of a text
_PIXELS_PER_SCALE = 29  # size of the font at scale 1
_INVISIBLE = {"Cc", "Cf", "Cs", "Mn", "Me"}  # control characters, joiners and marks above other characters


def text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Width of a text, its height above the base line and below it, at least those of "Ag", in pixels."""
    pixels = _font_pixels(scale)
    ink, above = _rendered(text, pixels)
    usual_above, usual_below = _heights(pixels)
    return ink.shape[1], max(above, usual_above), max(ink.shape[0] - above, usual_below)


def put_text(
    canvas: NDArray[np.uint8], text: str, position: tuple[int, int], color: tuple[int, int, int], scale: float
) -> None:
    """Draws a text onto an image, uint8 RGB [H, W, 3].

    A character that is in none of the fonts of this machine is drawn as its escape in ASCII.

    Args:
        canvas: the image, which is changed.
        text: one line.
        position: (x, y), where the base line begins.
        color: RGB.
        scale: size; capital letters are 21 pixels high at 1.
    """
    from effdet.opencv import cv2

    ink, above = _rendered(text, _font_pixels(scale))
    left, top = position[0], position[1] - above
    x1, y1 = max(left, 0), max(top, 0)
    area = canvas[y1 : max(top + ink.shape[0], 0), x1 : max(left + ink.shape[1], 0)]
    if area.size:
        visible = ink[y1 - top :, x1 - left :][: area.shape[0], : area.shape[1]]
        opacity = cv2.cvtColor(visible, cv2.COLOR_GRAY2RGB).astype(np.uint16)
        opacity += opacity >> 7  # 0..256, which spares a division
        ink_color: NDArray[np.uint16] = np.full(area.shape, color, np.uint16)
        area[:] = (area * (256 - opacity) + ink_color * opacity) >> 8


@lru_cache(maxsize=1024)
def _rendered(text: str, pixels: int) -> tuple[NDArray[np.uint8], int]:
    """The opacity of a text's pixels, [H, W], and its rows above the base line; not to be written to."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 2]}.."
    if not text.isascii() or " " not in text:
        return _rendered_run(text, pixels)
    # Word by word, so that "cat 0.93" and "cat 0.94" need few new pixels. Other scripts may order words in another way.
    words = [_rendered_run(word, pixels) for word in text.split(" ")]
    space = _space(pixels)
    above = max(rows for _, rows in words)
    height = above + max(ink.shape[0] - rows for ink, rows in words)
    whole = np.zeros((height, sum(ink.shape[1] + space for ink, _ in words) - space), np.uint8)
    left = 0
    for ink, rows in words:
        whole[above - rows : above - rows + ink.shape[0], left : left + ink.shape[1]] = ink
        left += ink.shape[1] + space
    return whole, above


@lru_cache(maxsize=4096)
def _rendered_run(text: str, pixels: int) -> tuple[NDArray[np.uint8], int]:
    """`_rendered` for a word, or for any text of other scripts."""
    from PIL import Image, ImageDraw

    direction = None if text.isascii() else _direction()
    runs = [(run, _font(path, pixels, text.isascii())) for run, path in _runs(text)]
    widths = [font.getlength(run, direction=direction) for run, font in runs]
    boxes = [font.getbbox(run, anchor="ls", direction=direction) for run, font in runs]
    above = max([0, *(-round(top) for _, top, _, _ in boxes)])
    below = max([0, *(round(bottom) for _, _, _, bottom in boxes)])
    ink = Image.new("L", (round(sum(widths)), above + below), 0)
    draw, x = ImageDraw.Draw(ink), 0.0
    for (run, font), width in zip(runs, widths, strict=True):
        draw.text((x, above), run, 255, font, anchor="ls", direction=direction)
        x += width
    return np.asarray(ink), above


def _font_pixels(scale: float) -> int:
    return max(1, round(_PIXELS_PER_SCALE * scale))


@cache
def _heights(pixels: int) -> tuple[int, int]:
    """How far most Latin letters reach above the base line and below it."""
    _, top, _, bottom = _font(_usual_font(), pixels).getbbox("Ag", anchor="ls")
    return -round(top), round(bottom)


@cache
def _direction() -> str | None:
    """The direction of a line, also if it begins with an Arabic name; within one, names run as in their script."""
    from PIL import features

    return "ltr" if features.check("raqm") else None  # without raqm there is one direction


@cache
def _space(pixels: int) -> int:
    """Width of a blank."""
    return round(_font(_usual_font(), pixels).getlength(" "))


@lru_cache(maxsize=256)  # of the sizes of long texts there are many
def _font(path: str, pixels: int, simple: bool = True) -> FreeTypeFont:
    """A font at a size; a simple one, which is faster, does not join letters or order them from right to left."""
    from PIL import ImageFont

    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC if simple else None)


def _runs(text: str) -> list[tuple[str, str]]:
    """A text as runs of characters, each with the path of a font that has them all."""
    runs: list[tuple[str, str]] = []
    path = _usual_font()
    for character in text:
        if _has(path, character):
            shown = character
        elif unicodedata.category(character) in _INVISIBLE:
            continue
        else:
            path = _usual_font() if _has(_usual_font(), character) else _font_with(character) or ""
            shown = character if path else character.encode("ascii", "backslashreplace").decode()
            path = path or _usual_font()
        if runs and runs[-1][1] == path:
            runs[-1] = runs[-1][0] + shown, path
        else:
            runs.append((shown, path))
    return runs


@cache
def _usual_font() -> str:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and symbols."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@cache
def _font_with(character: str) -> str | None:
    """A font of this machine that has a character."""
    return next((path for path in _system_fonts() if _has(path, character)), None)


@cache
def _system_fonts() -> list[str]:
    """The fonts of this machine, regular ones first."""
    from matplotlib.font_manager import findSystemFonts

    return sorted(findSystemFonts(), key=lambda path: ("regular" not in Path(path).name.lower(), path))


def _has(path: str, character: str) -> bool:
    codes = _codes(path)
    place = int(np.searchsorted(codes, ord(character)))
    return place < len(codes) and int(codes[place]) == ord(character)


@cache
def _codes(path: str) -> NDArray[np.uint32]:
    """The characters of a font, sorted; none if it cannot be drawn at any size."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        codes = sorted(font.get_charmap()) if font.scalable else []
    except (OSError, RuntimeError):  # a damaged font, or one of bitmaps
        codes = []
    return np.array(codes, np.uint32)
