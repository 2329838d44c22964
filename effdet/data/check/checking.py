"""The check of a data set: all its splits read and all its images decoded, every finding once.

Single subjects are in the files beside this one. Nothing is printed, drawn or written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effdet.config import DataConfig
from effdet.data.annotations import Annotations
from effdet.data.check.boxes import box_findings, object_findings
from effdet.data.check.classes import class_findings
from effdet.data.check.duplicates import Copies, duplicate_findings, identical_images, near_findings, near_images
from effdet.data.check.findings import Finding, Split
from effdet.data.check.images import image_findings, unnamed_images
from effdet.data.check.reader import reader_findings
from effdet.data.check.scan import ImageFacts, scan_images
from effdet.data.check.splits import crowds_are_objects, read_splits
from effdet.data.check.summary import class_histogram, size_histograms, split_rows
from effdet.types import Letterbox, PostprocessOptions, Task


@dataclass(frozen=True)
class DataCheck:
    """What the check of a data set says.

    Attributes:
        name: the path of the data set.
        format: name of its format.
        task: detection or classification.
        image_size: (H, W) of the model input, in pixels.
        letterbox: how images fit it.
        splits: the splits that could be read.
        repeating: names of splits that were left out, because all their images are in the others.
        facts: what the files of the images say, for each split.
        copies: groups of identical images.
        findings: problems first.
    """

    name: str
    format: str
    task: Task
    image_size: tuple[int, int]
    letterbox: Letterbox
    splits: tuple[Split, ...]
    repeating: tuple[str, ...]
    facts: tuple[tuple[ImageFacts, ...], ...]
    copies: tuple[Copies, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> int:
        """Number of findings that are problems."""
        return sum(finding.severity == "problem" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON and for pages."""
        with_boxes = self.task == "detection" and self.splits
        return {
            "data": self.name,
            "format": self.format,
            "task": self.task,
            "problems": self.problems,
            "notes": len(self.findings) - self.problems,
            "splits": split_rows(self.splits),
            "repeating_splits": list(self.repeating),
            "classes": class_histogram(self.splits),
            "box_sizes": size_histograms(self.splits, self.image_size, self.letterbox) if with_boxes else [],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check_data(
    data: DataConfig,
    image_size: tuple[int, int] = (512, 512),
    most_objects: int = PostprocessOptions.max_detections,
    progress: Callable[[int, int], None] | None = None,
    letterbox: Letterbox = "pad",
) -> DataCheck:
    """Checks every split of a data set.

    Args:
        data: section `data` of a recipe; its own splits are checked, not one that a recipe splits off.
        image_size: (H, W) of the model input in pixels, with which small objects are judged.
        most_objects: detections per image that the evaluation counts.
        progress: called with the numbers of images that are decoded and of all images.
        letterbox: how images fit the model input.

    Raises:
        DataError: there is no data set.
    """
    written = read_splits(data)
    splits = written.splits
    facts = scan_images(splits, data.value_range, progress)
    near = near_images(facts)
    copies = identical_images(splits, facts, near, data.value_range)
    findings = list(written.findings)
    for split, of_split in zip(splits, facts, strict=True):
        findings += image_findings(split, of_split)
        if isinstance(split.table, Annotations):
            findings += box_findings(split, of_split, image_size, letterbox)
            findings += object_findings(split, most_objects, crowds_are_objects(data))
        findings += reader_findings(split)
    findings += duplicate_findings(splits, copies)
    findings += class_findings(splits)
    findings += near_findings(splits, near, copies)
    if written.format != "folders":  # their reader counts what is beside the class folders
        findings += unnamed_images(splits)
    return DataCheck(
        name=str(data.root or data.url or data.train.annotations or data.train.images),
        format=written.format,
        task=data.task,
        image_size=image_size,
        letterbox=letterbox,
        splits=tuple(splits),
        repeating=tuple(written.repeating),
        facts=tuple(map(tuple, facts)),
        copies=tuple(copies),
        findings=_sorted(findings),
    )


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: finding.severity != "problem"))
