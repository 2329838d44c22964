"""Our own weights files: written so that a crash never leaves half a file, and read without running code.

A file holds tensors and plain containers: `model`, the weights; `card`, the model card; and in last.pt `training`, the
state that a resumed run needs. Files of other systems are read in `pretrained.py`.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from effdet.config import migrate
from effdet.errors import ConfigError, WeightsError
from effdet.files import atomic_write, full_path
from effdet.models import EfficientDet, EfficientNet
from effdet.plain_data import first_fault, kind_of
from effdet.text import reason_of
from effdet.weights.card import ModelCard, read_card
from effdet.weights.card_limits import check_weights
from effdet.weights.content import check_archive, check_content, check_finite_weights, check_state

FORMAT = 3  # raised when the layout of the file changes
OLDEST_FORMAT = 2  # that can be read; its model card has the keys of recipes of version 1


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
        model: the model with its weights, in evaluation mode.
        card: its model card.
        training: state of the training run; empty in best.pt.
    """

    model: EfficientDet | EfficientNet
    card: ModelCard
    training: dict[str, Any]


def save_checkpoint(
    path: Path, state: Mapping[str, Tensor], card: ModelCard, training: Mapping[str, Any] | None = None
) -> None:
    """Writes a checkpoint atomically: a reader of `path` gets the old file or the whole new one.

    Raises:
        WeightsError: the file cannot be written.
    """
    content = {"format": FORMAT, "model": dict(state), "card": card.to_dict(), "training": dict(training or {})}
    try:
        with atomic_write(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to torch
        raise WeightsError(
            f"{path}: cannot be written ({reason_of(error)}); free some space or choose another folder"
        ) from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Model and card of one of our files.

    Raises:
        WeightsError: the file is missing, damaged, or not a checkpoint of ours.
    """
    content = read_tensors(path)
    if not is_checkpoint(content):
        raise WeightsError(
            f"{path}: holds weights but no model card; expected a checkpoint of this package such as runs/NAME/best.pt"
        )
    card = card_in(content, path)
    if not isinstance(content["training"], dict):
        raise WeightsError(
            f"{path}: its training state is of the type {kind_of(content['training'])}; expected a mapping of keys"
        )
    try:
        check_weights(card, content["model"])
        model = card.spec.build(len(card.class_names))
        model.load_state_dict(content["model"])
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: the weights do not fit their own card: {str(error).splitlines()[-1]}") from None
    check_finite_weights(content["model"], path)
    return Checkpoint(model.eval(), card, content["training"])


def card_in(content: Mapping[str, Any], path: str | Path) -> ModelCard:
    """The model card in the content of a checkpoint.

    Raises:
        WeightsError: another version of this package wrote the file, or the card is damaged.
    """
    written = content["format"]
    if not isinstance(written, int) or written > FORMAT:
        raise WeightsError(f"{path}: written by a newer version of this package; update to read it")
    if written < OLDEST_FORMAT:
        raise WeightsError(
            f"{path}: written by an older version of this package that this one cannot read; train again"
        )
    try:
        return read_card(content["card"] if written == FORMAT else _of_today(content["card"]))
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None
    except ValidationError as error:
        raise WeightsError(f"{path}: the model card is damaged: {first_fault(error)}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: the model card is damaged: {str(error).splitlines()[0]}") from None


def _of_today(card: Mapping[str, Any]) -> dict[str, Any]:
    """The plain card of a file of format 2 with the options of `postprocess` under their names of today.

    Its detectors were evaluated without antialiasing.
    """
    options = migrate({"version": 1, "postprocess": card["postprocess"]})["postprocess"]
    antialias = {"antialias": False} if card["task"] == "detection" else {}
    return {**card, "postprocess": options, "spec": {**antialias, **card["spec"]}}


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file is that of one of our checkpoints."""
    return {"format", "model", "card", "training"} <= content.keys() and isinstance(content["model"], dict)


def _files_to_give(folder: Path) -> str:
    """The weights files in a folder, as an advice; empty if there are none."""
    names = sorted(path.name for path in folder.glob("*.pt"))
    if not names:
        return ""
    best = folder / ("best.pt" if "best.pt" in names else names[0])
    return f"{folder} has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}; give one, such as {best}"


def _nearest_folder(path: Path) -> str:
    """What the nearest folder of a path that exists holds."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    held = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{folder} holds {held}" if held else f"{folder} is empty"


def read_tensors(path: str | Path) -> dict[str, Any]:
    """The content of a file of tensors and plain containers; code in it is never run.

    Raises:
        WeightsError: the file is missing, damaged, or of another kind.
    """
    path = full_path(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; {_files_to_give(path) or 'it has no weights; give a file'}")
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; {_files_to_give(path.parent) or _nearest_folder(path)}")
    try:
        check_archive(path)
    except ValueError as error:
        raise WeightsError(f"{path}: not a weights file: {error}; write it by torch.save") from None
    except (zipfile.BadZipFile, NotImplementedError):  # torch reads some that zipfile does not
        pass
    except OSError as error:
        raise WeightsError(f"{path}: may not be read ({error.strerror}); check its permissions") from None
    try:
        with warnings.catch_warnings():  # about strange pickles, which are refused below with a message of ours
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise WeightsError(f"{path}: may not be read; check its permissions") from None
    except Exception:  # a damaged file fails in two dozen ways
        raise WeightsError(
            f"{path}: not a weights file, or damaged; expected a file of tensors written by torch.save"
        ) from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {kind_of(content)}; expected a state dict or a checkpoint")
    try:
        check_content(content)
        if is_checkpoint(content):
            check_state(content["model"])
    except ValueError as error:
        raise WeightsError(f"{path}: cannot be used: {error}; write the weights again") from None
    return content
