"""The images with the worst errors of a model, with truth and predictions drawn over them as SVG.

Which images those are is decided by the evaluation; `run_script.py` filters them in the browser.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.errors import DataError
from effdet.report.html_page import ellipsized, escaped, isolated
from effdet.report.pictures import encode_image
from effdet.text import percent

KINDS = {
    "classification": "right place, wrong class",
    "localization": "right class, IoU below 0.5",
    "both": "wrong class, IoU below 0.5",
    "duplicate": "object is detected already",
    "background": "no object there",
    "missed": "object without a detection",
}
_MOST_IMAGES = 72
_MOST_BOXES = 120  # drawn in an image, errors first
_MOST_TEXTS = 10  # boxes of an image with a text beside them
_LONGEST_TEXT = 22  # letters
_LETTER = 0.62  # mean width of a letter, in units of the font size

Picture = Callable[[Mapping[str, Any]], NDArray[np.uint8] | None]


class _Drawn(NamedTuple):
    """A box to draw: its error kind or None, class name, score of a detection or None for an object, xyxy pixels."""

    error: str | None
    name: str
    score: float | None
    box: Sequence[float]
    crowd: bool


def detection_gallery(worst: Sequence[Mapping[str, Any]], names: Sequence[str], picture: Picture) -> Iterator[str]:
    """The gallery of a detector.

    Args:
        worst: images as in analysis.json.
        names: K class names.
        picture: the pixels of one of them, small; None if there is no picture.
    """
    worst = worst[:_MOST_IMAGES]
    if not worst:
        yield '<p class="nothing">no errors at this confidence threshold</p>'
        return
    totals = dict.fromkeys(KINDS, 0)
    labels: set[int] = set()
    for image in worst:
        for kind, label in _errors(image):
            totals[kind] = totals.get(kind, 0) + 1
            labels.add(label)
    yield '<div class="gallery"><div class="tools">'
    yield from _class_filter(labels, names)
    yield '<span class="chips" role="group" aria-label="kind of error"><button type="button" class="chip" data-kind="" '
    yield 'aria-pressed="true">all</button>'
    for kind, about in KINDS.items():
        if totals[kind]:
            yield (
                f'<button type="button" class="chip" data-kind="{kind}" aria-pressed="false" title="{about}">'
                f'<i class="k-{kind}"></i>{kind} <b>{totals[kind]}</b></button>'
            )
    yield '</span><span class="shows"><label><input type="checkbox" data-show="truth" checked> truth</label> '
    yield '<label><input type="checkbox" data-show="right" checked> correct</label></span></div>'
    yield _key()
    yield '<p class="dim count" aria-live="polite"></p><div class="pictures">'
    for image in worst:
        yield _detection_figure(image, names, picture)
    yield "</div></div>"


def _key() -> str:
    """What the lines of boxes mean."""
    items = [("truth", "truth"), ("right", "correct"), *((kind, kind) for kind in KINDS)]
    return (
        '<p class="legend">'
        + "".join(f'<span><i class="line-{style}"></i>{name}</span>' for style, name in items)
        + "</p>"
    )


def _class_filter(labels: set[int], names: Sequence[str]) -> Iterator[str]:
    yield '<select class="classes" aria-label="class"><option value="">all classes</option>'
    for label in sorted(labels):
        yield f'<option value="{label}">{escaped(ellipsized(names[label], 50))}</option>'
    yield "</select>"


def _errors(image: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Kind and label of each error in an image."""
    boxes = (*image["detections"], *image["objects"])
    return [(each["error"], each["label"]) for each in boxes if each["error"] in KINDS]


def _detection_figure(image: Mapping[str, Any], names: Sequence[str], picture: Picture) -> str:
    counts = [f"{count} {kind}" for kind, count in image["counts"].items() if count]
    counts += [f"{image['left_out']} more boxes are not drawn"] if image.get("left_out") else []
    caption = f"{isolated(image['file_name'])}<br>{escaped(', '.join(counts))}"
    errors = escaped(" ".join(f"{kind}/{label}" for kind, label in _errors(image)))
    pixels = _pixels(picture, image)
    height, width = map(float, image["size"])
    unit = max(height, width) / 100
    background = (
        f'<rect class="blank" width="{width:g}" height="{height:g}"/><text class="none" x="{width / 2:.0f}" '
        f'y="{height / 2:.0f}" font-size="{5 * unit:.1f}" text-anchor="middle">no picture</text>'
        if pixels is None
        else f'<image width="{width:g}" height="{height:g}" preserveAspectRatio="none" href="{pixels}"/>'
    )
    drawn = "".join(_boxes(image, names, unit))
    return (
        f'<figure data-errors="{errors}"><button type="button" class="open" aria-label="enlarge">'
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escaped(image["file_name"])}">{background}'
        f"{drawn}</svg></button><figcaption>{caption}</figcaption></figure>"
    )


def _pixels(picture: Picture, image: Mapping[str, Any]) -> str | None:
    """The picture as an address with its data; None if there is none."""
    pixels = picture(image)
    if pixels is None:
        return None
    try:
        data = encode_image("picture", ".jpg", pixels)
    except DataError:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _boxes(image: Mapping[str, Any], names: Sequence[str], unit: float) -> Iterator[str]:
    """Rectangles, those of errors last and with a text.

    Args:
        image: an entry of "worst".
        names: K class names.
        unit: a hundredth of the longer side, in pixels of the image.
    """
    objects = [
        _Drawn(_kind(each), names[each["label"]], None, each["box"], bool(each.get("crowd")))
        for each in image["objects"]
    ]
    detections = [
        _Drawn(_kind(each), names[each["label"]], each["score"], each["box"], False) for each in image["detections"]
    ]
    everything = [drawn for drawn in (*objects, *detections) if all(map(math.isfinite, drawn.box))]
    wrong = [drawn for drawn in everything if drawn.error]
    right = [drawn for drawn in everything if not drawn.error]
    for drawn in (*right[: max(0, _MOST_BOXES - len(wrong))], *wrong[:_MOST_BOXES]):
        yield _rectangle(drawn, unit)
    height, width = image["size"]
    for drawn in wrong[:_MOST_TEXTS]:
        text, size = ellipsized(_text(drawn), _LONGEST_TEXT), 4.2 * unit
        x = max(min(drawn.box[0], width - _LETTER * size * len(text)), 0)
        y = min(max(drawn.box[1] - unit, 4.5 * unit), height - unit)
        yield f'<text class="b k-{drawn.error}" x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}">{escaped(text)}</text>'


def _kind(box: Mapping[str, Any]) -> str | None:
    """The kind of error of an object or a detection; None if it is right."""
    return box["error"] if box["error"] in KINDS else None


def _text(drawn: _Drawn) -> str:
    return drawn.name if drawn.score is None else f"{drawn.name} {drawn.score:.2f}"


def _rectangle(drawn: _Drawn, unit: float) -> str:
    x1, y1, x2, y2 = drawn.box
    style = f"k-{drawn.error}" if drawn.error else "truth" if drawn.score is None else "right"
    whose = "true" if drawn.score is None else "detected"
    note = f", {drawn.error}" if drawn.error else ", crowd" if drawn.crowd else ""
    title = escaped(f"{whose}: {_text(drawn)}{note}")
    return (
        f'<rect class="b {style}" x="{min(x1, x2):.1f}" y="{min(y1, y2):.1f}" '
        f'width="{max(abs(x2 - x1), unit / 5):.1f}" height="{max(abs(y2 - y1), unit / 5):.1f}">'
        f"<title>{title}</title></rect>"
    )


def classification_gallery(worst: Sequence[Mapping[str, Any]], names: Sequence[str], picture: Picture) -> Iterator[str]:
    """The gallery of a classifier: the wrong predictions with the highest scores."""
    worst = worst[:_MOST_IMAGES]
    if not worst:
        yield '<p class="nothing">no wrong predictions</p>'
        return
    yield '<div class="gallery"><div class="tools">'
    yield from _class_filter({each["true"] for each in worst}, names)
    yield '</div><p class="dim count" aria-live="polite"></p><div class="pictures">'
    for image in worst:
        pixels = _pixels(picture, image)
        shown = '<div class="nothing">no picture</div>'
        if pixels is not None:
            shown = (
                f'<button type="button" class="open" aria-label="enlarge"><img src="{pixels}" '
                f'alt="{escaped(image["file_name"])}"></button>'
            )
        yield f'<figure data-errors="wrong/{image["true"]}">{shown}<figcaption>{isolated(image["file_name"])}<br>'
        yield f'true <b>{isolated(ellipsized(names[image["true"]], 40))}</b></figcaption><div class="bars small">'
        for each in image["predictions"][:3]:
            style = "s2" if each["label"] == image["true"] else "s1"
            yield (
                f'<span title="{escaped(names[each["label"]])}">{isolated(names[each["label"]])}</span>'
                f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="{style}" '
                f'width="{100 * each["score"]:.1f}" height="10"/></svg><b>{percent(each["score"], 0)}%</b>'
            )
        yield "</div></figure>"
    yield "</div></div>"
