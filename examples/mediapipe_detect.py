"""Detects objects with MediaPipe Tasks in a file of `effdet export --format litert --face mediapipe`.

  python examples/mediapipe_detect.py best.tflite photo.jpg
  python examples/mediapipe_detect.py best.tflite photos --score 0.5 --json results.json

Needs `pip install mediapipe`, in an environment of its own: it replaces OpenCV. effdet is not needed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def main() -> None:
    """Prints the objects in images."""
    parser = argparse.ArgumentParser(description="Detects objects with MediaPipe Tasks.")
    parser.add_argument("model", type=Path, help="a .tflite file")
    parser.add_argument("images", type=Path, help="an image, or a folder of images")
    parser.add_argument("--score", type=float, default=0.4, help="confidence threshold")
    parser.add_argument("--most", type=int, default=100, help="detections per image")
    parser.add_argument("--json", type=Path, help="write the detections to this file")
    args = parser.parse_args()
    paths = (
        sorted(path for path in args.images.iterdir() if path.suffix.lower() in SUFFIXES)
        if args.images.is_dir()
        else [args.images]
    )
    results = {}
    with open_detector(args.model, args.score, args.most) as detector:
        for path in paths:
            results[path.name] = detect(detector, path)
            print(path)
            for detection in results[path.name]:
                left, top, right, bottom = detection["box"]
                print(f"  {detection['name']} {detection['score']:.2f}  {left} {top} {right} {bottom}")
    if args.json:
        args.json.write_text(json.dumps(results))


def open_detector(model: Path, score: float, most: int) -> Any:
    """MediaPipe's ObjectDetector; the model's metadata says how to decode its outputs."""
    from mediapipe.tasks.python import BaseOptions
    from mediapipe.tasks.python.vision import ObjectDetector, ObjectDetectorOptions

    options = ObjectDetectorOptions(BaseOptions(str(model)), score_threshold=score, max_results=most)
    return ObjectDetector.create_from_options(options)


def detect(detector: Any, path: Path) -> list[dict[str, Any]]:
    """Objects in an image: name, score, and the box (left, top, right, bottom) in pixels.

    MediaPipe cuts positions and sides off to whole pixels. Half a pixel, the mean of what it cuts off, is added here.
    Without it boxes are too small, and AP at a high IoU is lower.
    """
    import mediapipe as mp

    result = detector.detect(mp.Image.create_from_file(str(path)))
    return [
        {
            "name": detection.categories[0].category_name,
            "score": detection.categories[0].score,
            "box": [
                box.origin_x + 0.5,
                box.origin_y + 0.5,
                box.origin_x + box.width + 1.0,
                box.origin_y + box.height + 1.0,
            ],
        }
        for detection in result.detections
        for box in [detection.bounding_box]
    ]


if __name__ == "__main__":
    main()
