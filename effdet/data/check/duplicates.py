"""Findings about copies: images of the same content or pixels, and images that look nearly the same.

Boxes that are there twice are the subject of `boxes.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from effdet.data.check.findings import Finding, Place, Split, image_places
from effdet.data.check.scan import LOOK_SIDE, ImageFacts, pixel_hash
from effdet.data.labels import ImageLabels

# Bits of 256 in which near-duplicates may differ. In photographs of the same scene 3 to 21 do, in others of the same
# kind (blood cells, cards on a table) 56 or more.
NEAR_BITS = 24
_SAME_BITS = 8  # identical pixels, decoded smaller from different formats
_PLAIN_BITS = 12  # set or not set: pictures without structure, which all look the same
_NEIGHBORS = 8  # that an image is compared with in each order
_ORDERS = 16
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


class Item(NamedTuple):
    """An image: the number of its split, and its row there."""

    split: int
    row: int


class Copies(NamedTuple):
    """Images of the same content.

    Attributes:
        items: the images, in the order of the splits.
        leaking: whether they are in the training split and in another.
        contradicting: whether they have different classes.
    """

    items: tuple[Item, ...]
    leaking: bool
    contradicting: bool


def identical_images(
    splits: Sequence[Split],
    facts: Sequence[Sequence[ImageFacts]],
    near: Iterable[tuple[Item, Item, int]],
    value_range: tuple[float, float] | None = None,
) -> list[Copies]:
    """Groups of two or more images whose files, or whose pixels, are identical.

    Args:
        splits: the splits.
        facts: those of their images.
        near: pairs that look nearly the same, with the bits in which they differ; their pixels are compared.
        value_range: see `decode_image`.
    """
    items = [Item(split, row) for split in range(len(splits)) for row in range(len(facts[split]))]
    content: dict[Item, Hashable] = {item: facts[item.split][item.row].file_hash or item for item in items}
    pixels: dict[Hashable, Hashable] = {}  # content -> first content of the same pixels

    def pixels_of(item: Item) -> bytes:
        return pixel_hash(splits[item.split].table, item.row, value_range)

    for first, second, bits in near:
        one, other = facts[first.split][first.row], facts[second.split][second.row]
        if bits <= _SAME_BITS and one.size == other.size and content[first] != content[second]:
            for item in (first, second):
                if content[item] not in pixels:
                    pixels[content[item]] = pixels_of(item)
    groups: dict[Hashable, list[Item]] = defaultdict(list)
    for item in items:
        groups[pixels.get(content[item], content[item])].append(item)
    return [_copies(splits, group) for group in groups.values() if len(group) > 1]


def near_images(facts: Sequence[Sequence[ImageFacts]]) -> list[tuple[Item, Item, int]]:
    """Pairs of images that look nearly the same, and the bits of their perceptual hashes that differ.

    Every image is compared with its neighbors in several orders of the hashes, so that time and memory grow with the
    number of images and not with its square.
    """
    items = [
        Item(split, row)
        for split, images in enumerate(facts)
        for row, fact in enumerate(images)
        if _has_structure(fact)
    ]
    if len(items) < 2:
        return []
    hashes = np.array([np.frombuffer(facts[split][row].look, np.uint8) for split, row in items])
    # Bits far from each other side by side: those of a sky, which are alike in many pictures, are spread then.
    mixed = np.packbits(np.unpackbits(hashes, axis=1)[:, np.arange(LOOK_SIDE**2) * 37 % LOOK_SIDE**2], axis=1)
    pairs: dict[tuple[int, int], int] = {}
    for number in range(_ORDERS):
        turned = np.ascontiguousarray(np.roll(mixed, 2 * number, axis=1))
        order = np.argsort(turned.view(f"S{turned.shape[1]}")[:, 0], kind="stable")
        for step in range(1, min(_NEIGHBORS, len(items) - 1) + 1):
            left, right = order[:-step], order[step:]
            bits = _BITS[hashes[left] ^ hashes[right]].sum(axis=1)
            for place in np.flatnonzero(bits <= NEAR_BITS):
                first, second = sorted((int(left[place]), int(right[place])))
                pairs[first, second] = int(bits[place])
    return [(items[first], items[second], bits) for (first, second), bits in sorted(pairs.items())]


def duplicate_findings(splits: Sequence[Split], copies: Sequence[Copies]) -> list[Finding]:
    """Copies that contradict each other, leak from the training split, or are in one split."""
    places: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for group in copies:
        first = group.items[0]
        for item in group.items[1:]:
            kind = "contradicting-copy" if group.contradicting else "leak" if item.split != first.split else "duplicate"
            if kind == "leak" and "train" not in (splits[first.split].part, splits[item.split].part):
                kind = "repeated-image"
            places[kind, splits[item.split].name].append(_like(splits, item, first))
    return [
        Finding(kind, "problem", split, *_texts(kind, len(of_kind)), tuple(of_kind))
        for (kind, split), of_kind in places.items()
    ]


def near_findings(
    splits: Sequence[Split], near: Iterable[tuple[Item, Item, int]], copies: Sequence[Copies]
) -> list[Finding]:
    """Notes on images that look nearly the same as one of the training split, or as one of their own split."""
    exact = {item: number for number, group in enumerate(copies) for item in group.items}
    like: dict[str, dict[Item, Item]] = {"near-leak": {}, "near-duplicate": {}}
    for first, second, _ in near:
        if exact.get(first, -1) == exact.get(second, -2):
            continue
        if first.split == second.split:
            like["near-duplicate"].setdefault(second, first)
        elif splits[first.split].part == "train":
            like["near-leak"].setdefault(second, first)
    findings = []
    for kind, pairs in like.items():
        for number, split in enumerate(splits):
            places = tuple(_like(splits, item, other) for item, other in pairs.items() if item.split == number)
            if places:
                findings.append(Finding(kind, "note", split.name, *_texts(kind, len(places)), places))
    return findings


def _texts(kind: str, count: int) -> tuple[str, int, str]:
    """Cause, count and advice of a kind."""
    causes: Mapping[str, tuple[str, str]] = {
        "contradicting-copy": (
            "copies of an image under another class",
            "keep the image of the right class; --fix leaves all of them out",
        ),
        "leak": (
            "images that are in the training split too",
            "metrics on them are too good; --fix removes them from the training split",
        ),
        "repeated-image": ("images that are in another split too", "keep each in one split; --fix does"),
        "duplicate": ("copies of another image of the split", "keep one of each; --fix does"),
        "near-leak": (
            "images nearly the same as one in the training split",
            "metrics on them may be too good; put photographs of one scene into one split",
        ),
        "near-duplicate": ("images nearly the same as another of the split", "they add little; nothing has to be done"),
    }
    cause, advice = causes[kind]
    return cause, count, advice


def _copies(splits: Sequence[Split], items: list[Item]) -> Copies:
    parts = {splits[item.split].part for item in items}
    tables = [(splits[item.split].table, item.row) for item in items]
    classes = {_class_name(table, row) for table, row in tables if isinstance(table, ImageLabels)}
    return Copies(tuple(items), "train" in parts and len(parts) > 1, len(classes) > 1)


def _like(splits: Sequence[Split], item: Item, other: Item) -> Place:
    """The place of an image that repeats another; with both classes if they differ."""
    (place,), (like,) = (image_places(splits[number], [row]) for number, row in (item, other))
    tables = [(splits[number].table, row) for number, row in (item, other)]
    names = [_class_name(table, row) for table, row in tables if isinstance(table, ImageLabels)]
    detail = f"'{names[0]}', there '{names[1]}'" if len(set(names)) > 1 else ""
    return replace(place, detail=detail, other=like)


def _class_name(table: object, row: int) -> str:
    assert isinstance(table, ImageLabels)
    return table.label_map.names[int(table.labels[row])]


def _has_structure(fact: ImageFacts) -> bool:
    bits = int(_BITS[np.frombuffer(fact.look, np.uint8)].sum())
    return _PLAIN_BITS <= bits <= LOOK_SIDE**2 - _PLAIN_BITS
