"""Label files beside exported detectors, as Coral's library and Frigate read them.

The labels of our own runtimes and of MediaPipe are in the metadata of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effdet.files import write_text


def write_labels(model: Path, class_names: Sequence[str]) -> Path:
    """Writes the label file of a model, such as best.labels.txt for best.tflite, and gives its path.

    Each line has a label and its name, such as `0 person`. Without the label, a name such as `2 euro` would be read
    wrongly.
    """
    path = model.with_suffix(".labels.txt")
    write_text(path, "".join(f"{label} {' '.join(name.split())}\n" for label, name in enumerate(class_names)))
    return path
