"""Continues a run from its last.pt: loads the state, and says what has changed in recipe and data since.

A change that would make the saved state mean something else is refused; other changes are printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from effdet.config import TASKS
from effdet.errors import WeightsError
from effdet.plain_data import shortened
from effdet.text import reason_of
from effdet.training.setup import Run
from effdet.training.state import TrainState
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import card_in, is_checkpoint, read_tensors

# Keys without which a state means something else: the state of the optimizer depends on the first ones, the count of
# the steps on the batch size.
FIXED_KEYS = (
    *(("optim", "name"), ("optim", "lr_multipliers"), ("optim", "layer_decay")),
    *(("train", "freeze"), ("train", "batch_size")),
)
# Keys and sections that users change in good faith: how long a run goes on, where it runs and what it logs.
MINOR = (
    "output_dir",
    *("eval", "postprocess", "log"),
    *("data.workers", "data.root", "data.url", "data.cache", "data.cache_gb", "data.cache_folder"),
    *("train.epochs", "train.max_steps", "train.log_every", "train.save_every_minutes", "train.max_hours"),
    *("train.patience", "train.activation_checkpointing", "train.timeout_minutes", "train.cuda_graphs"),
)

MINOR_CHANGES = "changed too: "  # how their line begins

COUNTS = ("images", "objects")
_LONGEST_NAMES = 1500  # characters of all class names in a message


def resume(checkpoint: Path, run: Run, state: TrainState) -> None:
    """Loads the state of an earlier run from its last.pt (or from the folder that holds it) into `state`.

    If last.pt is damaged or missing, the previous.pt beside it is used.

    Raises:
        WeightsError: the file has no training state, or that of another model or optimizer.
    """
    path, content = newest_state(checkpoint, run.console)
    if not is_checkpoint(content) or not isinstance(content["training"], dict) or not content["training"]:
        raise WeightsError(f"{path}: has no training state; resume from the last.pt of a run")
    card = card_in(content, path)
    changes = differences(card.config, run.config.to_dict())
    others = [change for change in changes if not change.startswith(MINOR_CHANGES)]
    advice = "; resume with the recipe of the run"
    if len(others) > 1:
        advice += f" (this one differs in {'; '.join(others[:6])}{'; ...' if len(others) > 6 else ''})"
    difference = fixed_difference(card, run.card)
    if difference:
        raise WeightsError(f"{path}: {difference}{advice}")
    try:
        state.load_state_dict(content["training"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = reason_of(error)
        raise WeightsError(f"{path}: does not fit this recipe ({reason}){advice}") from None
    if not all(metrics.keys() >= set(run.task.criterion.names) for metrics in state.recent):
        state.recent = []  # the loss has changed: the next record of the log covers the steps from here on
    run.processes.all_reduce_max(0)  # waits until every process has read the file
    run.console.print(f"resumed from {path} after step {state.step}")
    data = content["training"].get("data", {})
    for line in [*data_changes(data if isinstance(data, Mapping) else {}, state.data), *changes]:
        run.console.print(line, style="yellow")


def newest_state(checkpoint: Path, console: Console) -> tuple[Path, dict[str, Any]]:
    """The file to resume from, and its content.

    Args:
        checkpoint: the last.pt of a run, or the folder that holds it.
        console: where it is printed that previous.pt is used.

    Raises:
        WeightsError: neither last.pt nor the previous.pt beside it can be read.
    """
    path = checkpoint / "last.pt" if checkpoint.is_dir() else checkpoint
    previous = path.with_name("previous.pt")
    try:
        return path, read_tensors(path)
    except WeightsError as error:
        if path.name != "last.pt" or not previous.exists():
            raise
        console.print(f"{error}; using {previous}", style="yellow")
        return previous, read_tensors(previous)


def fixed_difference(saved: ModelCard, made: ModelCard) -> str | None:
    """What differs between two cards that forbids to resume one run with the recipe of the other; None for nothing."""
    if (saved.spec.name, saved.class_names) != (made.spec.name, made.class_names):
        return (
            f"is of an {saved.spec.name} with classes {_names(saved)}, but the recipe makes an "
            f"{made.spec.name} with classes {_names(made)}"
        )
    before, now = vars(saved.spec), vars(made.spec)
    changed = [f"{key} {_text(before[key])} and now {_text(now[key])}" for key in before if before[key] != now[key]]
    if changed:
        return f"is of an {saved.spec.name} with {'; '.join(changed)}"
    changed = []
    for section, key in FIXED_KEYS:
        before, now = (card.config.get(section, {}) for card in (saved, made))
        if before.get(key, now.get(key)) != now.get(key):
            changed.append(f"{section}.{key} {_text(before[key])} and now {_text(now[key])}")
    return f"is of a run with {'; '.join(changed)}" if changed else None


def _names(card: ModelCard) -> str:
    return shortened(", ".join(card.class_names), _LONGEST_NAMES)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys in which two recipes, as `Config.to_dict` gives them, differ: lines to print, none if they are equal.

    A key that matters has a line of its own; the minor ones share the last line. A key that the saved recipe does not
    have, because it is of an older version, counts as its default.
    """
    before = {**dict(_flat(TASKS[now["task"]]().to_dict())), **dict(_flat(saved))}
    after = dict(_flat(now))
    changed = [key for key in dict.fromkeys([*after, *before]) if before.get(key) != after.get(key)]
    texts = {key: f"{key}: {_text(before.get(key))} -> {_text(after.get(key))}" for key in changed}
    minor = [key for key in changed if _is_minor(key)]
    lines = [line for key, line in texts.items() if key not in minor]
    return [*lines, f"{MINOR_CHANGES}{', '.join(texts[key] for key in minor)}"] if minor else lines


def data_changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How a data set has changed: lines to print, none if it has not.

    Args:
        saved: `TrainState.data` of the run; empty if unknown.
        now: the same of the current data set.
    """
    if not saved:
        return []
    before, after = saved.get("fingerprints"), now["fingerprints"]
    if not isinstance(before, Mapping) or "train" not in before:
        return ["the file does not say which data set it was trained on, so changes of it are not noticed"]
    lines = []
    if before["train"] != after["train"]:
        counts = [f"{key} {_text(saved.get(key))} -> {now[key]}" for key in COUNTS if saved.get(key) != now.get(key)]
        what = ", ".join(counts) or "as many as before, but others or in another order"
        lines.append(f"the training set has changed ({what}): the result will differ from that of an uninterrupted run")
    if before.get("val") != after.get("val"):
        lines.append("the validation set has changed: metrics from here on cannot be compared with those before")
    return lines


def _is_minor(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in MINOR)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings; an empty one counts as None."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", None if value == {} else value


def _text(value: Any) -> str:
    return "null" if value is None else shortened(str(value))
