"""Export a model for other runtimes, and compare the file with the model.

  effdet export --weights runs/d0/best.pt                         ONNX: runs/d0/best.onnx
  effdet export --weights runs/d0/best.pt --format openvino       OpenVINO: best.xml and best.bin
  effdet export --weights runs/lite0/best.pt --format litert --precision int8
  effdet export --weights efficientdet_d0 --dynamic-batch --raw --out d0.onnx

The input is uint8 RGB [B, H, W, 3]; normalization is in the file, and for detectors decoding and NMS (--raw leaves out
NMS). The file is written only if it computes what the model computes. What was compared is printed and stored in the
file; `effdet verify` repeats it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.cli.parsing import integer, real
from effdet.cli.runtime_arguments import add_runtime_arguments

FORMATS = ("onnx", "openvino", "litert", "torch")
FACES = ("detections", "raw", "logits", "features", "coral", "mediapipe")
PRECISIONS = ("float32", "float16", "dynamic-int8", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export` to a parser."""
    parser.add_argument(
        "--weights",
        required=True,
        help="checkpoint such as runs/NAME/best.pt, or public weights such as efficientdet_d0",
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="file format (%(default)s)")
    parser.add_argument(
        "--out", type=Path, help="file or folder (default: beside the checkpoint, such as runs/NAME/best.onnx)"
    )
    faces = parser.add_mutually_exclusive_group()
    faces.add_argument(
        "--face",
        choices=FACES,
        help="the outputs: detections after NMS, raw outputs, logits of a classifier, features of the backbone, or "
        "what Coral and MediaPipe expect (default: detections, for LiteRT raw, for a classifier logits)",
    )
    faces.add_argument("--raw", action="store_const", const="raw", dest="face", help="the same as --face raw: no NMS")
    parser.add_argument(
        "--image-size",
        type=integer(16384),
        nargs=2,
        metavar=("H", "W"),
        help="input size in pixels (default: the model's own)",
    )
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument(
        "--batch-size", type=integer(65536), default=1, metavar="N", help="images per call (%(default)s)"
    )
    batch.add_argument("--dynamic-batch", action="store_true", help="any number of images per call")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of weights and arithmetic (%(default)s)"
    )
    _add_nms(parser)
    parser.add_argument(
        "--calibration", metavar="FOLDER", help="int8: images to calibrate with (default: training images)"
    )
    parser.add_argument(
        "--calibration-images", type=integer(10**7), default=128, metavar="N", help="int8: most images (%(default)s)"
    )
    add_comparison_arguments(parser)
    add_runtime_arguments(parser, metadata=False)


def _add_nms(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the NMS inside the file."""
    default = "(default: as the model was evaluated)"
    parser.add_argument("--conf", type=real(1e9), help=f"NMS: confidence threshold {default}")
    parser.add_argument("--iou", type=real(1e9), help=f"NMS: IoU threshold {default}")
    parser.add_argument("--max-det", type=integer(100_000), help=f"NMS: most detections per image {default}")
    parser.add_argument("--nms", choices=("class", "agnostic"), help=f"NMS within a class or across classes {default}")


def add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds on what a file is compared with its model."""
    parser.add_argument(
        "--images", metavar="FOLDER", help="images to compare on (default: validation images of the recipe)"
    )
    parser.add_argument("--data", metavar="FOLDER", help="data set to measure AP on, before and after")
    parser.add_argument("--ap", action="store_true", help="measure AP on the validation images of the recipe")
    parser.add_argument(
        "--max-ap-loss", type=real(1e9), metavar="POINTS", help="largest loss of AP (default: 0.1, for int8 1.0)"
    )


def run(args: argparse.Namespace) -> int:
    """Exports; the exit status is 0.

    Raises:
        EffdetError: the model cannot be exported, or the file differs from it.
    """
    from effdet.exporting.api import export

    export(
        args.weights,
        args.format,
        output=args.out,
        face=args.face,
        image_size=None if args.image_size is None else tuple(args.image_size),
        batch_size=None if args.dynamic_batch else args.batch_size,
        precision=args.precision,
        score_threshold=args.conf,
        nms=args.nms,
        iou_threshold=args.iou,
        max_detections=args.max_det,
        calibration=args.calibration,
        calibration_count=args.calibration_images,
        images=args.images,
        data=args.data,
        ap=args.ap,
        max_ap_loss=args.max_ap_loss,
        threads=args.threads,
    )
    return 0
