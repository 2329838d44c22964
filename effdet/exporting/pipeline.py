"""Exports a model: reads it, writes the file, runs the file, compares it with the model, and moves it into place.

The formats are in `formats.py`, the comparison in `certifying.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from effdet.config import DetectionConfig, make_config
from effdet.data.images import Image
from effdet.errors import ConfigError, ExportError, WeightsError
from effdet.exporting.calibration import COUNT, calibration_images
from effdet.exporting.certificate import Certificate
from effdet.exporting.certifying import CompareOptions, check_compare_options, make_certificate, versions_of
from effdet.exporting.disk import folder_beside
from effdet.exporting.formats import FORMATS, Format, faces_of
from effdet.exporting.labels import write_labels
from effdet.files import full_path
from effdet.folders import owned_file
from effdet.models import EfficientDet, EfficientNet
from effdet.runtimes.exported import ExportedRuntime
from effdet.runtimes.opening import EXPORTED, open_model
from effdet.text import count_of
from effdet.types import ExportFormat, Face, PostprocessOptions, StoredPrecision
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import Checkpoint
from effdet.weights.create import open_checkpoint
from effdet.weights.exported import WITH_NMS, ExportCard


@dataclass(frozen=True)
class ExportResult:
    """The outcome of an export.

    Attributes:
        path: the file.
        certificate: what was compared with the PyTorch model, and how well it agreed.
        export: what the file says about itself.
    """

    path: Path
    certificate: Certificate
    export: ExportCard


def export_model(
    weights: str | Path,
    format_name: ExportFormat,
    *,
    output: str | Path | None = None,
    face: Face | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = 1,
    precision: StoredPrecision = "float32",
    postprocess: Mapping[str, Any] | None = None,
    calibration: str | Path | None = None,
    calibration_count: int = COUNT,
    compare: CompareOptions,
    threads: int | None = None,
    show: Callable[[str], None],
) -> ExportResult:
    """Exports a model and compares the file with it; arguments and errors are those of `effdet.export`.

    Of `PostprocessOptions` those in `postprocess` are given; `compare` says on what the file is compared, and `show`
    shows a line about progress.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; expected at least 1")
    _check_calibration(precision, calibration, calibration_count)
    check_compare_options(compare, precision)
    checkpoint = resized(open_source(weights), image_size)
    export = describe(checkpoint, weights, format_name, face, batch_size, precision, postprocess or {})
    chosen = FORMATS[format_name]
    path = output_path(weights, export, chosen, faces_of(format_name, checkpoint.card.task)[0], output)
    images: list[Image] = []
    if precision == "int8":
        images = list(calibration_images(checkpoint.card, calibration, calibration_count, weights))
        export = replace(
            export, calibration=f"{count_of(len(images), 'image')} of {calibration or 'the training split'}"
        )
        show(f"calibrating with {export.calibration}")
    with folder_beside(path) as folder, owned_file(path):
        partial = folder / path.name
        show(f"writing {path}" + (", which replaces the file of that name" if path.exists() else ""))
        export = _as_written(export, chosen.write(checkpoint.model, export, partial, images, show), show)
        runtime = open_model(partial, threads=threads).start(torch.device("cpu"), "auto")
        assert isinstance(runtime, ExportedRuntime)
        certificate = make_certificate(checkpoint, weights, runtime, compare, chosen.packages, show)
        if not certificate.agrees:
            raise ExportError(
                f"{path} is not written, because it would not compute what {weights} computes:\n"
                + "\n".join(certificate.lines())
            )
        export = export.with_certificate(certificate.to_dict())
        chosen.store_card(partial, export)
        _move(partial, path, chosen)
        if export.face == "coral":
            write_labels(path, export.model.class_names)
    return ExportResult(path, certificate, export)


def _check_calibration(precision: StoredPrecision, calibration: str | Path | None, count: int) -> None:
    """Raises ConfigError if there are images for a precision without calibration, or none for int8."""
    if calibration is not None and precision != "int8":
        raise ConfigError(f"calibration is {calibration}, but {precision} has no calibration; leave it out")
    if count < 1:
        raise ConfigError(f"calibration_count is {count}; expected at least 1")


def describe(
    checkpoint: Checkpoint,
    weights: str | Path,
    format_name: ExportFormat,
    face: Face | None,
    batch_size: int | None,
    precision: StoredPrecision,
    postprocess: Mapping[str, Any],
) -> ExportCard:
    """What the file will say about itself.

    Raises:
        ConfigError: the format has no such face or precision, or an option is out of range.
    """
    chosen, card = FORMATS[format_name], checkpoint.card
    faces = faces_of(format_name, card.task)
    face = face or faces[0]
    if face not in faces:
        raise ConfigError(
            f"face is '{face}', but a {_KIND[card.task]} in the format {format_name} has {' or '.join(faces)}"
        )
    if precision not in chosen.precisions:
        raise ConfigError(
            f"precision is '{precision}', but the format {format_name} has {', '.join(chosen.precisions)}"
        )
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected at least 1, or None for any number")
    options = None
    if face in WITH_NMS:
        plain = {**card.postprocess, **postprocess}
        config = make_config({"postprocess": plain}, source="export")
        assert isinstance(config, DetectionConfig)
        options = PostprocessOptions(**config.postprocess.model_dump())
        card = _with_options(card, options)
    elif postprocess:
        raise ConfigError(
            f"{', '.join(postprocess)}: the face '{face}' has no NMS inside; leave it out, and give it where the file "
            "is used"
        )
    return ExportCard(
        card,
        face,
        precision,
        batch_size,
        options,
        source=Path(weights).name,
        source_sha256=content_hash(checkpoint.model),
        versions=versions_of(chosen.packages),
    )


def _as_written(asked: ExportCard, written: ExportCard, show: Callable[[str], None]) -> ExportCard:
    """The card of a written file, whose predictions start from the options in the file; shows options that changed."""
    if asked.postprocess is None or written.postprocess is None:
        return written
    for key, value in vars(written.postprocess).items():
        before = getattr(asked.postprocess, key)
        if value != before:
            show(f"{key} is '{value}' in the file instead of '{before}': the face '{written.face}' has no other")
    return replace(written, model=_with_options(written.model, written.postprocess))


def _with_options(card: ModelCard, options: PostprocessOptions) -> ModelCard:
    """The card with the options inside the file, from which predictions and evaluations of the file start."""
    plain = vars(options)
    config = {**card.config, "postprocess": plain} if card.config else card.config
    return replace(card, postprocess=dict(plain), config=config)


_KIND = {"detection": "detector", "classification": "classifier"}


def open_source(weights: str | Path) -> Checkpoint:
    """The checkpoint, or the public weights, that are exported.

    Raises:
        WeightsError: they cannot be read, or are an exported file.
    """
    if Path(weights).suffix.lower() in EXPORTED:
        raise WeightsError(f"{weights}: is an exported file; give the checkpoint that it was exported from")
    return open_checkpoint(weights)


def resized(checkpoint: Checkpoint, image_size: tuple[int, int] | None) -> Checkpoint:
    """The checkpoint with another size (H, W) of its input.

    Raises:
        ConfigError: the size is not positive.
    """
    if image_size is None or image_size == checkpoint.card.spec.image_size:
        return checkpoint
    if min(image_size) < 1:
        raise ConfigError(f"image_size is {image_size[0]} x {image_size[1]}; expected at least 1 x 1")
    spec = replace(checkpoint.card.spec, image_size=image_size)
    model = spec.build(len(checkpoint.card.class_names))
    model.load_state_dict(checkpoint.model.state_dict())
    return replace(checkpoint, model=model.eval(), card=replace(checkpoint.card, spec=spec))


def content_hash(model: EfficientDet | EfficientNet) -> str:
    """SHA-256 of the weights: names, types, shapes and values of all tensors in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def output_path(
    weights: str | Path, export: ExportCard, chosen: Format, default_face: Face, output: str | Path | None
) -> Path:
    """The file to write: beside the checkpoint, or in the current folder for public weights.

    Face and precision are in its name unless they are the default: best.onnx, best-raw.onnx, best-int8.onnx.

    Raises:
        ConfigError: `output` has another suffix than files of the format.
    """
    if output is not None:
        path = full_path(output)
        if path.is_dir():
            path = path / _default_name(weights, export, chosen, default_face)
        elif path.suffix != chosen.suffix:
            raise ConfigError(
                f"{path}: files of this format end in {chosen.suffix}; give such a name or a folder that exists"
            )
        return path
    source = full_path(weights)
    folder = source.parent if source.is_file() else Path()
    return folder / _default_name(weights, export, chosen, default_face)


def _default_name(weights: str | Path, export: ExportCard, chosen: Format, default_face: Face) -> str:
    source = Path(weights)
    words = [source.stem if source.suffix in (".pt", ".pth") else source.name]
    words += [] if export.face == default_face else [export.face]
    words += [] if export.precision == "float32" else [export.precision]
    return "-".join(words) + chosen.suffix


def _move(partial: Path, path: Path, chosen: Format) -> None:
    """Moves the files of an export into place, the one that is opened last.

    If there are several, an older one that is opened is removed first: it would open with the new weights.
    """
    suffixes = (*chosen.others, chosen.suffix)
    for suffix in suffixes:
        with partial.with_suffix(suffix).open("rb+") as file:
            os.fsync(file.fileno())
    if chosen.others:
        path.unlink(missing_ok=True)
    for suffix in suffixes:
        os.replace(partial.with_suffix(suffix), path.with_suffix(suffix))
