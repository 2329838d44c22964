"""The bundle that a step leaves behind which could not be taken, and the same step taken again from it.

A bundle is a folder that needs neither the data set nor the recipe: bundle.pt, tensors and plain containers with all
that the step was computed from; report.json for people; batch.png, the images with their boxes. How a step is watched
is told in `examination.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.config import DetectionConfig, make_config
from effdet.data.images import Image, write_image
from effdet.devices import compute_deterministically, move_to_device
from effdet.errors import WeightsError
from effdet.files import atomic_folder, write_json
from effdet.losses import ClassificationLoss
from effdet.models import EfficientDet, EfficientNet
from effdet.report.sheet import contact_sheet, in_sheet
from effdet.structures import Batch, Target
from effdet.training.debug.nan_trace import Findings, LossesOf, Spread, examine
from effdet.training.debug.out_of_memory import is_out_of_memory
from effdet.training.setup import Run
from effdet.training.state import Figures, TrainState
from effdet.training.tasks.classification import ClassificationTask
from effdet.training.tasks.losses import classifier_losses, detection_loss, detector_losses
from effdet.training.tasks.task import AnyBatch, Task
from effdet.types import Precision
from effdet.weights.card import ModelCard, read_card
from effdet.weights.checkpoint import read_tensors

FORMAT = 2  # raised when the layout of bundle.pt changes
TENSORS, REPORT, PICTURE = "bundle.pt", "report.json", "batch.png"
PRECISIONS: dict[torch.dtype | None, Precision] = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
LINE = (255, 64, 64)  # colour of the boxes in the picture


@dataclass(frozen=True)
class Examples:
    """What the network saw in a step, or in a process's share of it.

    Attributes:
        images: [B, 3, H, W] uint8, changed and mixed as they were.
        targets: B targets of a detector; none of a classifier.
        shares: [B, K] share of every class in each image of a classifier; None of a detector.
        rows: B rows of the images in their table.
        files: B names of their files.
        ids: B ids of theirs in the data set.
    """

    images: Tensor
    targets: tuple[Target, ...]
    shares: Tensor | None
    rows: tuple[int, ...]
    files: tuple[str, ...]
    ids: tuple[int | str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The examples as plain containers of tensors in host memory."""
        return {
            "images": self.images.cpu().contiguous(),
            "targets": [{**vars(target.to(torch.device("cpu")))} for target in self.targets],
            "shares": None if self.shares is None else self.shares.cpu(),
            "rows": self.rows,
            "files": self.files,
            "ids": self.ids,
        }


@dataclass(frozen=True)
class Bundle:
    """A step that could not be taken, with all that it was computed from.

    Attributes:
        card: the network, its classes and the recipe.
        weights: of the model before the step, and its norms' statistics, which a forward pass has moved since.
        loss: state of what the losses are made by.
        evaluating: names of the modules that were in evaluation mode, such as frozen norms.
        fixed: names of the parameters that are not trained.
        dropout: rate before a classifier's last layer; None of a detector.
        examples: the batch.
        parts: in how many parts it was computed.
        precision: arithmetic of the network.
        loss_scale: factor of the loss in the backward pass.
        seed: of torch's generators before the forward pass.
        step: steps done before this one.
        epoch: counted from 0.
        figures: learning rate, losses, gradient norm and settings of the step.
        process: number of the process and how many there were; the examples are its share of the batch.
        device: type of the device.
    """

    card: ModelCard
    weights: dict[str, Tensor]
    loss: dict[str, Tensor]
    evaluating: tuple[str, ...]
    fixed: tuple[str, ...]
    dropout: float | None
    examples: Examples
    parts: int
    precision: Precision
    loss_scale: float
    seed: int
    step: int
    epoch: int
    figures: Figures
    process: tuple[int, int]
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers, which load with `weights_only=True`."""
        return {"bundle": FORMAT, **vars(self), "card": self.card.to_dict(), "examples": self.examples.to_dict()}


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder, or of its bundle.pt.

    Raises:
        WeightsError: there is none, or it is damaged or of another version of this package.
    """
    file = path / TENSORS if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"{path}: no bundle; expected a folder such as runs/NAME/bundle-12")
    content = read_tensors(file)
    version = content.pop("bundle", None)
    if version is None:
        raise WeightsError(f"{path}: not a bundle; expected a folder such as runs/NAME/bundle-12, or its {TENSORS}")
    if version != FORMAT:
        raise WeightsError(f"{path}: a bundle of another version of this package; replay it with that version")
    try:
        examples = content["examples"]
        targets = tuple(Target(**target) for target in examples["targets"])
        parts = {"card": read_card(content["card"]), "examples": Examples(**{**examples, "targets": targets})}
        return Bundle(**{**content, **parts})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: the bundle is damaged: {str(error).splitlines()[0]}") from None


def leave_bundle(run: Run, state: TrainState, batch: AnyBatch, figures: Figures, seed: int) -> str:
    """Writes the bundle of a step that cannot be taken, bundle-STEP in the run's folder, and tells of it in words.

    Over several processes each writes what it knows.

    Args:
        run: the run.
        state: as it was before the step; its gradients are given up.
        batch: this process's share of the batch.
        figures: of the step.
        seed: of torch's generators before the forward pass.
    """
    state.optimizer.zero_grad()  # the step is taken again, in their room
    bundle = _bundle_of(run, state, batch, figures, seed)
    rank = run.processes.rank
    path = run.folder / f"bundle-{state.step + 1}{f'-process-{rank}' if rank else ''}"
    try:
        findings = rerun(bundle, run.network.device, run.network.dtype)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        findings = None
    try:
        write_bundle(path, bundle, findings)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to torch
        told = f"no bundle could be written to {path} ({str(error).splitlines()[0]})"
    else:
        told = f"see {path / REPORT}, and take the step again with `effdet replay {path}`"
    return f"{_origin_in_words(findings)}; {told}"


def write_bundle(path: Path, bundle: Bundle, findings: Findings | None) -> None:
    """Writes a bundle's folder, whole or not at all; one that is there already is replaced."""
    with atomic_folder(path) as folder:
        torch.save(bundle.to_dict(), folder / TENSORS)
        write_json(folder / REPORT, _readable(report_of(bundle, findings)))
        write_image(folder / PICTURE, _picture(bundle.examples))


def rerun(bundle: Bundle, device: torch.device, dtype: torch.dtype | None) -> Findings:
    """The step of a bundle, taken again under watch.

    On the device and in the precision of the bundle it gives the figures of the step; of several processes, the
    figures of this one's share alone.

    Args:
        bundle: the step.
        device: where to compute.
        dtype: type under autocast, or None for float32.

    Raises:
        ConfigError, WeightsError: the bundle is of another version of this package.
    """
    card, examples = bundle.card, bundle.examples
    config = make_config(card.config, source="the bundle's recipe")
    model = _model_of(bundle)
    model.checkpoint_activations(config.train.checkpoint_activations)
    compute_deterministically(config.train.deterministic)
    move_to_device(model, device, config.train.channels_last)
    images = examples.images.to(device).contiguous(memory_format=torch.channels_last)
    losses: LossesOf
    if isinstance(config, DetectionConfig):
        assert isinstance(model, EfficientDet)
        loss = detection_loss(config.loss, card.class_names)
        loss.load_state_dict(bundle.loss)
        batch = Batch(images, examples.targets).to(device)
        anchors = model.anchors_at((images.shape[-2], images.shape[-1]))
        losses = functools.partial(detector_losses, loss, anchors, batch=batch, parts=bundle.parts, step=bundle.step)
    else:
        assert examples.shares is not None
        shares, entropy = examples.shares.to(device), ClassificationLoss(config.loss.label_smoothing)
        losses = functools.partial(classifier_losses, entropy, images=images, targets=shares, parts=bundle.parts)
    scale = bundle.loss_scale if PRECISIONS[dtype] == bundle.precision else 1.0
    torch.manual_seed(bundle.seed)
    return examine(model, losses, device, dtype, scale)


def report_of(bundle: Bundle, findings: Findings | None) -> dict[str, Any]:
    """What a person wants to know of a step, without tensors; `findings` are those of taking it again."""
    examples = bundle.examples
    pixels = Spread()
    pixels.add(examples.images.float())
    again = None
    if findings is not None:
        again = {"losses": findings.losses, "gradient_norm": findings.gradient_norm}
    return {
        "step": bundle.step + 1,
        "epoch": bundle.epoch + 1,
        "figures": bundle.figures,
        "precision": bundle.precision,
        "device": bundle.device,
        "process": {"number": bundle.process[0], "of": bundle.process[1]},
        "taken_again": again,
        "first_not_finite": vars(findings.origin) if findings and findings.origin else None,
        "outputs": {name: spread.to_dict() for name, spread in findings.outputs.items()} if findings else None,
        "images": {"size": list(examples.images.shape[-2:]), **pixels.to_dict()},
        "boxes": _boxes_of(examples) if examples.targets else None,
        "batch": _rows_of(bundle),
        "gradient_norms": findings.gradients if findings else None,
        "versions": bundle.card.versions,
    }


def _bundle_of(run: Run, state: TrainState, batch: AnyBatch, figures: Figures, seed: int) -> Bundle:
    model, epoch = state.model, state.step // run.schedule.steps_per_epoch
    return Bundle(
        card=run.card,
        weights={name: value.cpu() for name, value in model.state_dict().items()},
        loss={name: value.cpu() for name, value in state.loss.state_dict().items()},
        evaluating=tuple(name for name, module in model.named_modules() if not module.training),
        fixed=tuple(name for name, value in model.named_parameters() if not value.requires_grad),
        dropout=model.dropout.p if isinstance(model, EfficientNet) else None,
        examples=_examples_of(run.task, batch.to(run.network.device), epoch, state.step),
        parts=run.config.train.accumulation_steps,
        precision=PRECISIONS[run.network.dtype],
        loss_scale=state.scaler.get_scale(),
        seed=seed,
        step=state.step,
        epoch=epoch,
        figures=figures,
        process=(run.processes.rank, run.processes.size),
        device=run.network.device.type,
    )


def _examples_of(task: Task, batch: AnyBatch, epoch: int, step: int) -> Examples:
    files = tuple(task.file_name(index) for index in batch.indices)
    ids = tuple(task.image_id(index) for index in batch.indices)
    if isinstance(batch, Batch):
        return Examples(batch.images, batch.targets, None, tuple(batch.indices), files, ids)
    assert isinstance(task, ClassificationTask)
    images, shares = task.mixed(batch, epoch, step)
    return Examples(images, (), shares, tuple(batch.indices), files, ids)


def _model_of(bundle: Bundle) -> EfficientDet | EfficientNet:
    """The model as it was before the step, in host memory."""
    model = bundle.card.spec.build(len(bundle.card.class_names))
    try:
        model.load_state_dict(bundle.weights)
    except RuntimeError as error:
        raise WeightsError(f"the weights of the bundle do not fit its network: {str(error).splitlines()[-1]}") from None
    model.train()
    for name in bundle.evaluating:
        model.get_submodule(name).training = False
    for name in bundle.fixed:
        model.get_parameter(name).requires_grad_(False)
    if isinstance(model, EfficientNet) and bundle.dropout is not None:
        model.dropout.p = bundle.dropout
    return model


def _origin_in_words(findings: Findings | None) -> str:
    if findings is None:
        return "there is no memory to look for the layer"
    if findings.origin is None:
        return "taken again, this process's share of the step is finite"
    return f"it begins in {findings.origin}"


def _boxes_of(examples: Examples) -> dict[str, Any]:
    """What may be wrong with the boxes of a batch, counted; sides in pixels of the input."""
    boxes = torch.cat([target.boxes for target in examples.targets]).cpu()
    labels = torch.cat([target.labels for target in examples.targets]).cpu()
    height, width = examples.images.shape[-2:]
    finite = boxes.isfinite().all(1)
    sides = (boxes[:, 2:] - boxes[:, :2])[finite]
    outside = (boxes[:, :2] >= boxes.new_tensor([width, height])).any(1) | (boxes[:, 2:] <= 0).any(1)
    return {
        "count": len(boxes),
        "not_finite": int((~finite).sum()),
        "without_area": int((sides <= 0).any(1).sum()),
        "outside_their_image": int((outside & finite).sum()),
        "smallest_side": float(sides.min()) if len(sides) else None,
        "largest_side": float(sides.max()) if len(sides) else None,
        "labels": [int(labels.min()), int(labels.max())] if len(labels) else None,
    }


def _rows_of(bundle: Bundle) -> list[dict[str, Any]]:
    """File, row and objects or classes of every image of a batch."""
    examples, names = bundle.examples, bundle.card.class_names
    rows: list[dict[str, Any]] = []
    for number, (file, own, row) in enumerate(zip(examples.files, examples.ids, examples.rows, strict=True)):
        line: dict[str, Any] = {"file": file, "image_id": own, "row": row}
        if examples.shares is not None:
            shares = examples.shares[number].tolist()
            line["classes"] = {name: share for name, share in zip(names, shares, strict=True) if share > 0}
        else:
            boxes = examples.targets[number].boxes
            sides = boxes[:, 2:] - boxes[:, :2]
            line.update(objects=len(boxes), smallest_side=float(sides.min()) if len(boxes) else None)
        rows.append(line)
    return rows


def _picture(examples: Examples) -> Image:
    """The images of a batch on a sheet, with the boxes of those that have some."""
    import cv2

    pictures = []
    for number, image in enumerate(examples.images.cpu()):
        picture, scale = in_sheet(image)
        if examples.targets:
            boxes = examples.targets[number].boxes.cpu() * scale
            for x1, y1, x2, y2 in boxes[boxes.isfinite().all(1)].clamp(-1e4, 1e4).round().int().tolist():
                cv2.rectangle(picture, (x1, y1), (x2, y2), LINE)
        pictures.append(picture)
    return contact_sheet([pictures])


def _readable(value: Any) -> Any:
    """Plain containers as JSON has them: numbers in six digits, those that are not finite as words."""
    if isinstance(value, Mapping):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
