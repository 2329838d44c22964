"""The certificate of an exported file: what was compared with the PyTorch model, how well it agreed, and the verdict.

It is stored in the file. How outputs are compared is in `comparing.py`, comparing again in `verifying.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from pydantic import TypeAdapter, ValidationError

from effdet.errors import WeightsError
from effdet.exporting.comparing import Difference, Matching, Tolerance
from effdet.plain_data import first_fault

StoredDetection = tuple[float, float, float, float, float, int]  # x1, y1, x2, y2, score and label


@dataclass(frozen=True)
class Sample:
    """Some values of an output of the PyTorch model, at positions drawn from a fixed seed.

    Attributes:
        largest: largest absolute value of the whole output.
        values: at the positions.
    """

    largest: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class DrawnReference:
    """What the PyTorch model computes for a drawn image, so that a file can be verified without the checkpoint.

    Attributes:
        sha256: of the pixels.
        outputs: a sample of each output that the file has too.
        detections: the first ones that the file has too.
    """

    sha256: str
    outputs: dict[str, Sample] = field(default_factory=dict)
    detections: tuple[StoredDetection, ...] = ()


@dataclass(frozen=True)
class ApComparison:
    """The metric of the PyTorch model and of the file on the same images.

    Attributes:
        metric: its name.
        data: the data set.
        images: number of images.
        before: of the PyTorch model, as a fraction.
        after: of the file.
    """

    metric: str
    data: str
    images: int
    before: float
    after: float

    @property
    def loss(self) -> float:
        """In points of 100."""
        return 100 * (self.before - self.after)


@dataclass(frozen=True)
class Comparison:
    """What was compared, and the differences.

    Attributes:
        images: number of images.
        outputs: differences of each output that the file has as it is.
        matching: of the detections; None for classifiers and backbones.
        same_class: images of a classifier with the same most probable class; None for others.
        drawn: references of the drawn images.
        spread: of the logits, highest minus lowest of an image, in the image where it is smallest; None for backbones.
    """

    images: int = 0
    outputs: dict[str, Difference] = field(default_factory=dict)
    matching: Matching | None = None
    same_class: int | None = None
    drawn: tuple[DrawnReference, ...] = ()
    spread: float | None = None


@dataclass(frozen=True)
class Certificate:
    """The certificate of an exported file.

    Attributes:
        source: where the images are from.
        images_sha256: of the pixels of all images.
        comparison: the differences.
        tolerance: how large they may be.
        ap: the metric before and after; None if it was not measured.
        failures: what is not within the tolerance; empty if the file agrees with the model.
        versions: of the runtime and of the packages that compared.
        date: when, in UTC.
    """

    source: str
    images_sha256: str
    comparison: Comparison
    tolerance: Tolerance
    ap: ApComparison | None = None
    failures: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the file computes what the model computes."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for `read_certificate`."""
        plain: dict[str, Any] = TypeAdapter(Certificate).dump_python(self, mode="json")
        return plain

    def lines(self) -> list[str]:
        """The certificate as a short table."""
        return [f"{name:14}{text}" for name, text in self._rows()]

    def _rows(self) -> list[tuple[str, str]]:
        compared, limits = self.comparison, self.tolerance
        rows = [("images", f"{compared.images}: {self.source}")]
        for name, difference in compared.outputs.items():
            relative = f"relative {difference.relative:.2g} (limit {limits.relative:g})"
            rows.append((name, f"largest difference {difference.absolute:.2g}, {relative}"))
        matching = compared.matching
        if matching is not None:
            least = f" of a score of {limits.lowest_score:g} or more" if limits.lowest_score else ""
            counts = f"{matching.equal} equal, {matching.near_ties} near-ties, {matching.different} different"
            rows.append(("detections", f"{matching.compared} compared{least}: {counts}"))
            extremes = f"least IoU {matching.least_iou:.4f}, largest score difference {matching.score_difference:.2g}"
            rows.append(("", f"{extremes} of equal ones"))
            if not matching.compared:
                rows.append(("", "neither has a detection in these images: give --images with objects to compare some"))
        if compared.same_class is not None:
            rows.append(("best class", f"the same for {compared.same_class} of {compared.images} images"))
        if compared.spread is not None and compared.spread <= limits.logit:
            rows.append(
                ("", f"the logits of an image differ by {compared.spread:.2g} at most: the weights look untrained,")
            )
            rows.append(("", "and files of such weights agree easily; export trained weights to be sure"))
        if self.ap is not None:
            ap = self.ap
            values = f"{100 * ap.before:.2f} before, {100 * ap.after:.2f} after"
            rows.append((ap.metric, f"{values} (largest loss {limits.ap_loss:g}), {ap.images} images of {ap.data}"))
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in self.versions.items())))
        rows += [("", failure) for failure in self.failures]
        rows.append(("result", "agrees with the PyTorch model" if self.agrees else "DIFFERS from the PyTorch model"))
        return rows


def read_certificate(plain: dict[str, Any], path: object) -> Certificate:
    """The certificate from the result of `Certificate.to_dict`.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    if not plain:
        raise WeightsError(f"{path}: has no certificate; export it again, or give --weights with its checkpoint")
    try:
        return TypeAdapter(Certificate).validate_python(plain)
    except ValidationError as error:
        raise WeightsError(f"{path}: the certificate is damaged: {first_fault(error)}; export it again") from None


def certify(
    comparison: Comparison,
    tolerance: Tolerance,
    source: str,
    images_sha256: str,
    ap: ApComparison | None,
    versions: dict[str, str],
) -> Certificate:
    """The certificate of a comparison, with the verdict."""
    certificate = Certificate(source, images_sha256, comparison, tolerance, ap, (), versions, now())
    return replace(certificate, failures=tuple(_failures(comparison, tolerance, ap)))


def _failures(comparison: Comparison, tolerance: Tolerance, ap: ApComparison | None) -> list[str]:
    """What is not within the tolerance, one sentence each."""
    if ap is not None and tolerance.ap_decides:
        return _ap_failures(ap, tolerance)
    failures = []
    for name, difference in comparison.outputs.items():
        if not difference.relative <= tolerance.relative:
            failures.append(f"{name} differs by {difference.relative:.3g} of its largest value")
    matching = comparison.matching
    if matching is not None and matching.different > tolerance.different * matching.compared:
        failures.append(f"{matching.different} of {matching.compared} detections are different")
    same = comparison.same_class
    if same is not None and comparison.images - same > tolerance.different * comparison.images:
        failures.append(f"{comparison.images - same} of {comparison.images} images get another class")
    return [*failures, *([] if ap is None else _ap_failures(ap, tolerance))]


def _ap_failures(ap: ApComparison, tolerance: Tolerance) -> list[str]:
    within = ap.loss <= tolerance.ap_loss
    return [] if within else [f"{ap.metric} falls by {ap.loss:.2f} points, more than {tolerance.ap_loss:g}"]


def now() -> str:
    """The time in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
