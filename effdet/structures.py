"""The containers that pass between modules: Target, Batch and LabelBatch, Outputs, Detections and Classification.

What fills them is elsewhere. Letters in shapes: B images, C channels, H W pixels, K classes, A anchors, N objects,
M detections, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.errors import DataError
from effdet.report.boxes import draw_boxes, draw_lines
from effdet.report.pictures import html_of, write_image

if TYPE_CHECKING:
    import pandas
    import supervision

_MOST_IN_REPR = 5  # objects or classes
_MOST_IN_HTML = 20


@dataclass(frozen=True)
class Target:
    """The annotated objects of one image. Losses use boxes and labels alone; the rest is for evaluation.

    Attributes:
        boxes: [N, 4] float32, xyxy in pixels of the network input.
        labels: [N] int64 in 0..K-1; there is no background class.
        index: row of the image in its `Annotations` table.
        size: (H, W) of the original image in pixels, EXIF rotation applied.
        scale: network-input pixels per original pixel, (vertical, horizontal).
    """

    boxes: Tensor
    labels: Tensor
    index: int = 0
    size: tuple[int, int] = (0, 0)
    scale: tuple[float, float] = (1.0, 1.0)

    def to(self, device: torch.device) -> Target:
        """The same target with its tensors on `device`."""
        return replace(
            self, boxes=self.boxes.to(device, non_blocking=True), labels=self.labels.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class Batch:
    """Images of one size with their targets.

    Attributes:
        images: [B, 3, H, W] uint8, RGB.
        targets: B targets in the same order.
    """

    images: Tensor
    targets: tuple[Target, ...]

    @property
    def indices(self) -> list[int]:
        """Row of every image in its `Annotations` table, B rows."""
        return [target.index for target in self.targets]

    def split(self, count: int) -> list[Batch]:
        """At most `count` micro-batches of nearly equal size, none empty."""
        targets = iter(self.targets)
        micro_batches = self.images.tensor_split(min(count, len(self.images)))
        return [Batch(images, tuple(islice(targets, len(images)))) for images in micro_batches]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; from pinned memory the copy does not wait."""
        return Batch(self.images.to(device, non_blocking=True), tuple(target.to(device) for target in self.targets))


@dataclass(frozen=True)
class LabelBatch:
    """Images of one size with the class of each.

    Attributes:
        images: [B, 3, H, W] uint8, RGB.
        labels: [B] int64 in 0..K-1.
        indices: B rows of the images in their table.
    """

    images: Tensor
    labels: Tensor
    indices: list[int]

    def to(self, device: torch.device) -> LabelBatch:
        """The same batch on `device`; from pinned memory the copy does not wait."""
        return replace(
            self, images=self.images.to(device, non_blocking=True), labels=self.labels.to(device, non_blocking=True)
        )


class Outputs(NamedTuple):
    """The raw outputs of a detector for a batch, the same in training and in evaluation.

    Attributes:
        class_logits: [B, A, K], before the sigmoid.
        box_deltas: [B, A, 4], (dx, dy, dw, dh) relative to the anchors, see `boxes.encode_boxes`.
        anchors: [A, 4] float32, xyxy in pixels of the network input.
    """

    class_logits: Tensor
    box_deltas: Tensor
    anchors: Tensor


class Detection(NamedTuple):
    """One detected object in plain Python numbers.

    Attributes:
        box: (x1, y1, x2, y2) in pixels, in the frame of the `Detections` it is from.
        score: confidence in 0..1.
        label: class in 0..K-1.
        name: class name; the label as text where there are no names.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, repr=False)
class Detections:
    """The detected objects of one image, sorted by descending score.

    They behave like a sequence: `len(detections)`, `for box, score, label, name in detections`, `detections[0]` is one
    `Detection`, and `detections[:5]`, `detections[detections.scores > 0.8]`, `detections[[0, 3]]` and
    `detections["car"]` are the `Detections` of these rows or of this class.

    Attributes:
        boxes: [M, 4] float32, xyxy in pixels of the original image; from `postprocess`, of the network input.
        scores: [M] float32, confidence in 0..1.
        labels: [M] int64 in 0..K-1.
        class_names: name of each label, K names; empty if unknown.
        load_image: reads the image, uint8 RGB [H, W, 3], for `draw`, `save` and notebooks; None if the image is
            unknown. It holds what the predictor was given, such as a path, and no decoded pixels.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()
    load_image: Callable[[], NDArray[np.uint8]] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names, strict=True)
        return (Detection(tuple(box), score, label, name) for box, score, label, name in rows)

    @overload
    def __getitem__(self, key: int) -> Detection: ...

    @overload
    def __getitem__(self, key: str | slice | Sequence[int] | Sequence[bool] | NDArray[Any] | Tensor) -> Detections: ...

    def __getitem__(
        self, key: int | str | slice | Sequence[int] | Sequence[bool] | NDArray[Any] | Tensor
    ) -> Detection | Detections:
        """One object by its index, or those of a slice, a boolean mask [M], an array of indices or a class name.

        Raises:
            IndexError: an index is out of range, or a mask does not have M entries.
            KeyError: there is no class of this name.
        """
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            if not -len(self) <= key < len(self):
                raise IndexError(f"detection {key} of {len(self)}")
            return next(iter(self[[int(key)]]))
        rows = self._rows_of_class(key) if isinstance(key, str) else key
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, device=self.scores.device)
            if rows.ndim != 1 or (rows.dtype == torch.bool and len(rows) != len(self)):
                raise IndexError(f"{len(self)} detections cannot be indexed with shape {list(rows.shape)}")
            rows = rows if len(rows) else rows.long()  # an empty list is of float type
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    def __repr__(self) -> str:
        return _short("Detections", "objects", self)

    @property
    def names(self) -> list[str]:
        """Class name of every detection, M names; labels as text where there are no names."""
        return _names(self.labels, self.class_names)

    def cpu(self) -> Detections:
        """The same detections in host memory."""
        return replace(self, boxes=self.boxes.cpu(), scores=self.scores.cpu(), labels=self.labels.cpu())

    def draw(self, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """A copy of the image with boxes, class names and scores, uint8 RGB [H, W, 3]; the best are drawn on top.

        Args:
            image: uint8 RGB [H, W, 3], in whose pixels the boxes are; None for the image the predictor was given.

        Raises:
            DataError: no image is given and none is known, or it cannot be read.
        """
        pixels = _pixels(image, self.load_image)
        worst_first = self.scores.argsort(stable=True)
        rows = list(self[worst_first])
        texts = [f"{row.name} {row.score:.2f}" for row in rows]
        return draw_boxes(pixels, [row.box for row in rows], [row.label for row in rows], texts)

    def save(self, path: str | Path, image: NDArray[np.uint8] | None = None) -> None:
        """Saves what `draw` returns, in the format of the path's suffix.

        Raises:
            DataError: see `draw`; or the picture cannot be written.
        """
        _save(Path(path), self.draw(image))

    def to_pandas(self) -> pandas.DataFrame:
        """A table with the columns name, label, score, x1, y1, x2, y2; needs pandas.

        Raises:
            ImportError: pandas is not installed.
        """
        corners = zip(("x1", "y1", "x2", "y2"), self.boxes.cpu().numpy().T, strict=True)
        return _data_frame(self.names, self.labels, self.scores, dict(corners))

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`, with the class names in `data["class_name"]`; needs supervision.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs supervision; install it with: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def _repr_html_(self) -> str:
        columns = ("name", "score", "x1", "y1", "x2", "y2")
        rows = [(row.name, f"{row.score:.2f}", *(f"{side:.0f}" for side in row.box)) for row in self[:_MOST_IN_HTML]]
        return _html(self, columns, rows)

    def _rows_of_class(self, name: str) -> Tensor:
        """Which rows are of a class, [M] bool."""
        if self.class_names and name not in self.class_names:
            raise KeyError(f"no class '{name}'; the classes are {', '.join(self.class_names)}")
        return torch.tensor([own == name for own in self.names], dtype=torch.bool)


@dataclass(frozen=True, repr=False)
class Classification:
    """The most probable classes of one image, sorted by descending probability.

    Attributes:
        scores: [M] float32, probabilities in 0..1.
        labels: [M] int64 in 0..K-1.
        class_names: name of each label, K names; empty if unknown.
        load_image: see `Detections`.
    """

    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()
    load_image: Callable[[], NDArray[np.uint8]] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return _short("Classification", "classes", self)

    @property
    def names(self) -> list[str]:
        """Name of every class, M names; labels as text where there are no names."""
        return _names(self.labels, self.class_names)

    def cpu(self) -> Classification:
        """The same classes in host memory."""
        return replace(self, scores=self.scores.cpu(), labels=self.labels.cpu())

    def draw(self, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """A copy of the image with a line per class at the top left, probability and name; see `Detections.draw`."""
        lines = [f"{score:.2f} {name}" for score, name in zip(self.scores.tolist(), self.names, strict=True)]
        return draw_lines(_pixels(image, self.load_image), lines)

    def save(self, path: str | Path, image: NDArray[np.uint8] | None = None) -> None:
        """Saves what `draw` returns; see `Detections.save`."""
        _save(Path(path), self.draw(image))

    def to_pandas(self) -> pandas.DataFrame:
        """A table with the columns name, label, score; needs pandas.

        Raises:
            ImportError: pandas is not installed.
        """
        return _data_frame(self.names, self.labels, self.scores, {})

    def _repr_html_(self) -> str:
        rows = [(name, f"{score:.3f}") for name, score in zip(self.names, self.scores.tolist(), strict=True)]
        return _html(self, ("name", "probability"), rows[:_MOST_IN_HTML])


def _names(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    return [class_names[label] if class_names else str(label) for label in labels.tolist()]


def _short(kind: str, what: str, result: Detections | Classification) -> str:
    """Such as "Detections(3 objects: car 0.93, dog 0.51, ...)"."""
    pairs = zip(result.names[:_MOST_IN_REPR], result.scores[:_MOST_IN_REPR].tolist(), strict=True)
    shown = [f"{name} {score:.2f}" for name, score in pairs] + ["..."] * (len(result) > _MOST_IN_REPR)
    what = {"objects": "object", "classes": "class"}[what] if len(result) == 1 else what
    return f"{kind}({len(result)} {what}{': ' if shown else ''}{', '.join(shown)})"


def _pixels(image: NDArray[np.uint8] | None, load_image: Callable[[], NDArray[np.uint8]] | None) -> NDArray[np.uint8]:
    if image is None:
        if load_image is None:
            raise DataError(
                "no image to draw on: results of `Predictor.stream` and of `postprocess` do not keep theirs; pass it, "
                "as in result.draw(image)"
            )
        return load_image()
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(
            f"the image has type {pixels.dtype} and shape {list(pixels.shape)}; expected uint8 RGB [H, W, 3]"
        )
    return pixels


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    try:
        write_image(path, image)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another path") from None


def _data_frame(
    names: list[str], labels: Tensor, scores: Tensor, more: dict[str, NDArray[np.float32]]
) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas needs pandas; install it with: pip install pandas") from error
    return pandas.DataFrame({"name": names, "label": labels.cpu().numpy(), "score": scores.cpu().numpy(), **more})


def _html(result: Detections | Classification, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """For notebooks: the picture, if the image is known and can still be read, and a table."""
    try:
        picture = result.draw()
    except DataError:
        picture = None
    return html_of(picture, columns, rows, more=len(result) - len(rows))
