"""Pictures as files, and as HTML for notebooks.

What is drawn on them is up to the other modules of this package.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.errors import DataError
from effdet.files import atomic_write

_HTML_SIDE = 800  # most pixels along a side of a picture in a notebook


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Saves a picture, uint8 RGB [H, W, 3], in one step, in the format of the path's suffix.

    Raises:
        DataError: there is no such format, or the picture cannot be encoded.
        OSError: the file cannot be written.
    """
    data = encode_image(path, path.suffix.lower(), image)
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def html_of(image: NDArray[np.uint8] | None, columns: Sequence[str], rows: Sequence[Sequence[str]], more: int) -> str:
    """A picture, if there is one, above a table, as HTML without links to files.

    Args:
        image: uint8 RGB [H, W, 3], made smaller if it is large.
        columns: the head of the table.
        rows: its lines.
        more: lines that are not shown.
    """
    picture = ""
    if image is not None:
        from effdet.opencv import cv2

        scale = min(1, _HTML_SIDE / max(image.shape[:2]))
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        data = encode_image(
            "picture", ".jpg", np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        )
        picture = f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"{picture}<table><tr>{head}</tr>{body}</table>{f'<p>and {more} more</p>' if more else ''}"


def encode_image(name: str | Path, suffix: str, image: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 RGB [H, W, 3], as the content of a file with a suffix.

    Raises:
        DataError: there is no such format, or the picture cannot be encoded.
    """
    from effdet.opencv import cv2

    try:
        encoded, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise DataError(
            f"{name}: the picture cannot be encoded as '{suffix}'; choose another format such as .jpg or .png"
        )
    return np.asarray(data).tobytes()
