"""Detects objects in a file of `effdet export --format litert --face coral`, as the libraries of Coral and Frigate do.

  python examples/coral_detect.py best.tflite best.labels.txt photo.jpg
  python examples/coral_detect.py best_edgetpu.tflite best.labels.txt photo.jpg --edgetpu     # on a Coral accelerator

Needs `pip install ai-edge-litert pillow numpy`. effdet is not needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

EDGE_TPU = "libedgetpu.so.1"  # of Coral's Debian package libedgetpu1-std


class Detection(NamedTuple):
    """An object: its class, confidence, and box (left, top, right, bottom) in pixels of the image."""

    label: int
    score: float
    box: tuple[float, float, float, float]


def main() -> None:
    """Prints the objects in images."""
    parser = argparse.ArgumentParser(description="Detects objects as Coral and Frigate do.")
    parser.add_argument("model", type=Path, help="a .tflite file")
    parser.add_argument("labels", type=Path, help="its labels, one class a line")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--score", type=float, default=0.4, help="confidence threshold")
    parser.add_argument("--edgetpu", action="store_true", help="run on a Coral accelerator")
    args = parser.parse_args()
    interpreter, names = open_model(args.model, args.edgetpu), read_labels(args.labels)
    for path in args.images:
        print(path)
        for label, score, (left, top, right, bottom) in detect(interpreter, Image.open(path), args.score):
            print(f"  {names[label]} {score:.2f}  {left:.0f} {top:.0f} {right:.0f} {bottom:.0f}")


def open_model(path: Path, edgetpu: bool = False) -> Any:
    """An interpreter that is ready to run."""
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    delegates = [load_delegate(EDGE_TPU)] if edgetpu else []
    interpreter = Interpreter(str(path), experimental_delegates=delegates)
    interpreter.allocate_tensors()
    return interpreter


def read_labels(path: Path) -> dict[int, str]:
    """Names by class, from lines such as `0 person`."""
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {int(label): name for label, name in rows}


def detect(interpreter: Any, image: Image.Image, score: float) -> list[Detection]:
    """Objects in an image, sorted by descending confidence."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    (row,) = interpreter.get_input_details()
    _, height, width, _ = row["shape"]
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))  # stretched
    interpreter.set_tensor(row["index"], pixels[None])
    interpreter.invoke()
    boxes, labels, scores, count = (
        interpreter.get_tensor(details["index"])[0] for details in interpreter.get_output_details()
    )
    sides = np.array([image.height, image.width, image.height, image.width])
    results = []
    for (top, left, bottom, right), label, confidence in zip(boxes * sides, labels, scores, strict=True):
        if len(results) == int(count) or confidence < score:
            break
        results.append(Detection(int(label), float(confidence), (left, top, right, bottom)))
    return results


if __name__ == "__main__":
    main()
