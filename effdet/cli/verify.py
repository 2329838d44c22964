"""Compare an exported file with the model that it was exported from once more.

  effdet verify runs/d0/best.onnx                                 with runs/d0/best.pt if it is there
  effdet verify best.onnx --weights runs/d0/best.pt --data /data/coco

With the checkpoint, given or beside the file, the comparison of the export is repeated, and the weights are checked to
be those that were exported. Without it, the outputs for drawn images are compared with those of the model, which are
stored in the file. The exit status is 0 if the file agrees with the model, else 1.
"""

from __future__ import annotations

import argparse

from effdet.cli.export import add_comparison_arguments
from effdet.cli.runtime_arguments import add_runtime_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `verify` to a parser."""
    parser.add_argument("file", metavar="FILE", help="exported file: .onnx, .xml (OpenVINO), .tflite or .pt2")
    parser.add_argument("--weights", help="the checkpoint that was exported (default: the one beside the file)")
    add_comparison_arguments(parser)
    add_runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Verifies; the exit status is 0 if the file agrees with the model, else 1.

    Raises:
        EffdetError: the file, the checkpoint or the images cannot be used.
    """
    from effdet.exporting.api import verify

    result = verify(
        args.file,
        args.weights,
        images=args.images,
        data=args.data,
        ap=args.ap,
        max_ap_loss=args.max_ap_loss,
        metadata=args.metadata,
        threads=args.threads,
    )
    return 0 if result.agrees else 1
