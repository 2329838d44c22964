"""What describes an exported file whose own metadata is missing: a checkpoint, or a JSON file with the metadata.

The metadata itself is in `effdet/weights/exported.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from effdet.errors import ConfigError, WeightsError
from effdet.files import full_path, read_text
from effdet.runtimes.exported import Graph
from effdet.text import reason_of
from effdet.types import Face, PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.create import open_checkpoint
from effdet.weights.exported import ExportCard, read_export_card

EXPECTED = "give --metadata the checkpoint that was exported, such as best.pt, or a JSON file with the metadata"

# The faces that can be recognised by the names of their outputs.
_FACES: dict[Face, set[str]] = {
    "detections": {"boxes", "scores", "labels", "counts"},
    "raw": {"class_logits", "boxes"},
    "logits": {"logits"},
    "features": {"c3", "c4", "c5"},
}


def read_description(metadata: str | Path) -> ExportCard | ModelCard:
    """The card in a JSON file, or that of a checkpoint or of public weights.

    Raises:
        ConfigError: there is no such JSON file.
        WeightsError: it is damaged or another kind of file, or there is no such checkpoint.
    """
    path = full_path(metadata)
    if path.suffix.lower() != ".json":
        try:
            return open_checkpoint(metadata).card
        except WeightsError as error:
            if not path.is_file() or path.suffix in (".pt", ".pth"):
                raise
            raise WeightsError(f"{error}; {EXPECTED}") from None
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a JSON file or a checkpoint") from None
    try:
        return read_export_card(text, path)
    except WeightsError as error:
        raise WeightsError(f"{str(error).removesuffix('; export the file again')}; {EXPECTED}") from None


def describe_graph(graph: Graph, card: ModelCard, name: str) -> ExportCard:
    """What a checkpoint says about a file that was exported from it; the face is seen in the outputs for one image.

    Args:
        graph: of the file.
        card: of the checkpoint.
        name: the file, for messages.

    Raises:
        WeightsError: the graph cannot run on an image of the checkpoint's input size, or has other outputs.
    """
    height, width = card.spec.image_size
    try:
        outputs = graph(np.zeros((1, height, width, card.spec.in_channels), np.uint8))
    except Exception as error:  # every runtime raises errors of its own
        reason = reason_of(error)
        raise WeightsError(
            f"{name}: cannot run on images [1, {height}, {width}, {card.spec.in_channels}] uint8, which the metadata "
            f"describes: {reason}"
        ) from None
    for face, names in _FACES.items():
        if names == set(outputs):
            options = None
            if face == "detections":
                most = outputs["boxes"].shape[1]
                options = dataclasses.replace(PostprocessOptions(**card.postprocess), max_detections=most)
            return ExportCard(card, face, postprocess=options)
    expected = "; or ".join(", ".join(sorted(names)) for names in _FACES.values())
    raise WeightsError(f"{name}: its outputs are {', '.join(sorted(outputs))}; expected {expected}")
