"""Export and verification as two functions: `effdet.export` and `effdet.verify`, which the command line calls too.

They print what is compared. The steps are in `pipeline.py` and `verifying.py`.
"""

from __future__ import annotations

from pathlib import Path

from effdet.console import PlainConsole
from effdet.exporting.calibration import COUNT as CALIBRATION_IMAGES
from effdet.exporting.certifying import CompareOptions
from effdet.exporting.pipeline import ExportResult, export_model
from effdet.exporting.verifying import VerifyResult, verify_file
from effdet.types import ExportFormat, Face, NmsMethod, StoredPrecision


def export(
    weights: str | Path,
    format: ExportFormat = "onnx",
    *,
    output: str | Path | None = None,
    face: Face | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = 1,
    precision: StoredPrecision = "float32",
    score_threshold: float | None = None,
    nms: NmsMethod | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    calibration: str | Path | None = None,
    calibration_count: int = CALIBRATION_IMAGES,
    images: str | Path | None = None,
    data: str | Path | None = None,
    ap: bool = False,
    max_ap_loss: float | None = None,
    threads: int | None = None,
) -> ExportResult:
    """Exports a model to a file that other programs run, and compares the file with it; the same as `effdet export`.

    The file is compared on some validation images of the checkpoint's recipe, if they are there, and on drawn ones. It
    is written only if it agrees; the certificate is stored in it.

    Example:
        >>> result = effdet.export("runs/mine/best.pt", "onnx")
        >>> print(result.certificate.comparison.matching)
        >>> detections = effdet.Predictor(result.path)("street.jpg")

    Args:
        weights: a checkpoint such as runs/NAME/best.pt, or the name of public weights.
        format: of the file: .onnx, OpenVINO's .xml and .bin, LiteRT's .tflite, or .pt2 of torch.export.
        output: file or folder; None for a file beside the checkpoint, such as runs/NAME/best.onnx.
        face: which outputs the file has, see `effdet.types.Face`; None for detections, or raw for LiteRT, and logits
            for classifiers.
        image_size: (H, W) of the input in pixels; None for the model's own.
        batch_size: images per call; None for any number.
        precision: of weights and arithmetic in the file.
        score_threshold: lowest confidence of a detection in the file, 0..1; None for that of the model's evaluation, as
            for the three below.
        nms: NMS in the file, see `PostprocessOptions`.
        iou_threshold: IoU above which it drops the box of lower score, 0..1.
        max_detections: most detections per image.
        calibration: folder of images for int8; None for training images of the checkpoint's recipe.
        calibration_count: most of them.
        images: folder of images to compare on; None for validation images of the recipe.
        data: data set on which AP is measured before and after, the same as data.root.
        ap: whether AP is measured on the validation images of the recipe; for int8 it is if they are there.
        max_ap_loss: largest loss of AP in points of 100; None for 0.1, and 1.0 for int8.
        threads: CPU threads of the runtime that runs the file; None for its own choice.

    Raises:
        ConfigError: an argument is out of range or does not fit the model or the format, or a package is missing.
        DataError: images or the data set cannot be read.
        ExportError: the format cannot hold the model, or the file does not compute what the model computes.
        WeightsError: the weights cannot be used.
    """
    given = {
        "score_threshold": score_threshold,
        "nms": nms,
        "iou_threshold": iou_threshold,
        "max_detections": max_detections,
    }
    console = PlainConsole()
    result = export_model(
        weights,
        format,
        output=output,
        face=face,
        image_size=image_size,
        batch_size=batch_size,
        precision=precision,
        postprocess={key: value for key, value in given.items() if value is not None},
        calibration=calibration,
        calibration_count=calibration_count,
        compare=CompareOptions(images, data, ap, max_ap_loss),
        threads=threads,
        show=console.print,
    )
    for line in (*result.certificate.lines(), f"{'file':14}{result.path}"):
        console.print(line)
    return result


def verify(
    file: str | Path,
    weights: str | Path | None = None,
    *,
    images: str | Path | None = None,
    data: str | Path | None = None,
    ap: bool = False,
    max_ap_loss: float | None = None,
    metadata: str | Path | None = None,
    threads: int | None = None,
) -> VerifyResult:
    """Compares an exported file with its model once more; the same as `effdet verify`.

    With the checkpoint, given or beside the file under its name, the whole comparison of the export is repeated and the
    weights are checked to be those that were exported. Without it, the outputs for the drawn images are compared with
    those of the PyTorch model that the file holds.

    Args:
        file: the exported file.
        weights: the checkpoint that was exported, or the name of public weights.
        images: folder of images to compare on; this and the next three need the checkpoint.
        data: data set on which AP is measured before and after, the same as data.root.
        ap: whether AP is measured on the validation images of the recipe.
        max_ap_loss: largest loss of AP in points of 100; None for that of the export.
        metadata: for a file whose metadata is missing: its checkpoint, or a JSON file with the metadata.
        threads: CPU threads of the runtime; None for its own choice.

    Raises:
        ConfigError: an argument does not fit, or the file's runtime is not installed.
        DataError: images or the data set cannot be read.
        WeightsError: the file or the checkpoint cannot be used, or there is neither a certificate nor a checkpoint.
    """
    console = PlainConsole()
    compare = CompareOptions(images, data, ap, max_ap_loss)
    result = verify_file(file, weights, compare=compare, metadata=metadata, threads=threads, show=console.print)
    for line in result.lines:
        console.print(line)
    return result
