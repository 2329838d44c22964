"""Verifies an exported file again: with the checkpoint that was exported, or with the references stored in the file.

The first certificate is made in `pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from effdet.errors import ConfigError
from effdet.exporting.certificate import Certificate, read_certificate
from effdet.exporting.certifying import SCENES, CompareOptions, make_certificate
from effdet.exporting.formats import FORMATS
from effdet.exporting.images import drawn_images, pixel_hash
from effdet.exporting.measuring import compare_drawn
from effdet.exporting.pipeline import content_hash, open_source, resized
from effdet.files import full_path
from effdet.runtimes.exported import ExportedRuntime
from effdet.runtimes.opening import open_model


@dataclass(frozen=True)
class VerifyResult:
    """The outcome of a verification.

    Attributes:
        agrees: whether the file computes what the model computes that it was exported from.
        lines: what was compared, with the differences, as a short table.
        certificate: of the new comparison; None if there was no checkpoint.
    """

    agrees: bool
    lines: tuple[str, ...]
    certificate: Certificate | None = None


def verify_file(
    file: str | Path,
    weights: str | Path | None = None,
    *,
    compare: CompareOptions,
    metadata: str | Path | None = None,
    threads: int | None = None,
    show: Callable[[str], None],
) -> VerifyResult:
    """Compares an exported file once more; arguments and errors are those of `effdet.verify`.

    `compare` says on what the file is compared with the checkpoint, and `show` shows a line about progress.
    """
    runtime = open_model(file, threads=threads, metadata=metadata).start(torch.device("cpu"), "auto")
    if not isinstance(runtime, ExportedRuntime):
        raise ConfigError(f"{file}: is no exported file; give one, and its checkpoint with --weights")
    path, export = full_path(file), runtime.export
    beside = path.parent / export.source
    if weights is None and export.source and beside.is_file():
        weights = beside
    stored = read_certificate(export.certificate, file) if export.certificate or weights is None else None
    if weights is not None:
        return _with_checkpoint(runtime, weights, stored, compare, show)
    if compare != CompareOptions():
        raise ConfigError(
            f"{file}: its checkpoint {export.source} is not beside it; give it with --weights to compare on images or "
            "a data set, or leave them out to compare with the references in the file"
        )
    assert stored is not None
    return _with_references(runtime, stored)


def _with_checkpoint(
    runtime: ExportedRuntime,
    weights: str | Path,
    stored: Certificate | None,
    compare: CompareOptions,
    show: Callable[[str], None],
) -> VerifyResult:
    export = runtime.export
    checkpoint = resized(open_source(weights), export.image_size)
    if export.source_sha256 and content_hash(checkpoint.model) != export.source_sha256:
        line = (
            f"result        DIFFERS: the weights of {weights} are not those of {export.source} that were exported; "
            "export them again, or give the other checkpoint with --weights"
        )
        return VerifyResult(False, (line,))
    if compare.max_ap_loss is None and stored is not None:
        compare = replace(compare, max_ap_loss=stored.tolerance.ap_loss)
    packages = next(row.packages for row in FORMATS.values() if row.suffix == Path(runtime.name).suffix.lower())
    certificate = make_certificate(checkpoint, weights, runtime, compare, packages, show)
    known = "the one that was exported" if export.source_sha256 else "whether it was exported is unknown"
    lines = [f"checkpoint    {weights}, {known}", *certificate.lines()]
    if stored is not None:
        same = "the same" if stored.images_sha256 == certificate.images_sha256 else "other"
        lines.insert(1, f"stored        certificate of {stored.date}, on {same} images")
    return VerifyResult(certificate.agrees, tuple(lines), certificate)


def _with_references(runtime: ExportedRuntime, stored: Certificate) -> VerifyResult:
    """Compares a file with what the PyTorch model computed for the drawn images, which the certificate holds."""
    images = drawn_images(runtime.card, SCENES)
    references = stored.comparison.drawn
    # Another version of OpenCV may draw other pixels; noise is the same everywhere.
    pairs = [pair for pair in zip(images, references, strict=False) if pixel_hash([pair[0]]) == pair[1].sha256]
    limits = stored.tolerance
    differences, expected, equal = compare_drawn(
        runtime, [image for image, _ in pairs], [reference for _, reference in pairs], limits
    )
    lines = [
        f"checkpoint    {runtime.export.source} is not here; comparing with the references stored in the file",
        f"images        {len(pairs)} of {len(references)} drawn images, the same as on {stored.date}",
    ]
    for name, difference in differences.items():
        relative = f"relative {difference.relative:.2g} (limit {limits.relative:g})"
        lines.append(f"{name:14}largest difference {difference.absolute:.2g}, {relative}")
    if expected:
        lines.append(f"detections    {equal} of {expected} stored ones are equal")
    if not differences and not expected:
        lines.append("result        UNKNOWN: there is no reference to compare with; give --weights with the checkpoint")
        return VerifyResult(False, tuple(lines))
    agrees = all(difference.relative <= limits.relative for difference in differences.values())
    agrees = agrees and expected - equal <= limits.different * expected
    lines.append(f"result        {'agrees with' if agrees else 'DIFFERS from'} the PyTorch model")
    return VerifyResult(agrees, tuple(lines))
