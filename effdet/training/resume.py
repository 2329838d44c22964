"""What has changed between a run and its resuming: keys of the recipe, and the data set.

What forbids to go on is refused in `run.py`; what is told here does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from effdet.config import TASKS

# Keys, or sections, that users change in good faith: how long a run goes on, where it runs and what it tells.
MINOR = (
    "output_dir",
    *("eval", "postprocess", "log"),
    *("data.workers", "data.root", "data.url", "data.cache", "data.cache_gb", "data.cache_folder"),
    *("train.epochs", "train.max_steps", "train.log_every", "train.save_minutes", "train.max_hours", "train.patience"),
    *("train.checkpoint_activations", "train.timeout_minutes"),
)

MINOR_CHANGES = "changed too: "  # how their line begins

COUNTS = ("images", "objects")


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what the recipe of a run, as `Config.to_dict` gave it, differs from another: lines to print, none if equal.

    A key that matters has a line of its own; the others share the last one. A key that the saved recipe does not know,
    since it is of an older version, is taken for its default.
    """
    before = {**dict(_flat(TASKS[now["task"]]().to_dict())), **dict(_flat(saved))}
    after = dict(_flat(now))
    changed = [key for key in dict.fromkeys([*after, *before]) if before.get(key) != after.get(key)]
    told = {key: f"{key}: {_text(before.get(key))} -> {_text(after.get(key))}" for key in changed}
    minor = [key for key in changed if _is_minor(key)]
    lines = [line for key, line in told.items() if key not in minor]
    return [*lines, f"{MINOR_CHANGES}{', '.join(told[key] for key in minor)}"] if minor else lines


def data_changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what a data set differs from what it was: lines to print, none if it is the same.

    Args:
        saved: `TrainState.data` of the run; empty where it is not known.
        now: the same of the data set that there is now.
    """
    if not saved:
        return []
    before, after = saved["fingerprints"], now["fingerprints"]
    lines = []
    if before["train"] != after["train"]:
        counts = [f"{key} {saved[key]} -> {now[key]}" for key in COUNTS if saved.get(key) != now.get(key)]
        what = ", ".join(counts) or "as many as before, but others or in another order"
        lines.append(f"the training set has changed ({what}): from here on this is not the run that would have been")
    if before.get("val") != after.get("val"):
        lines.append("the validation set has changed: metrics from here on do not compare with those before")
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
    return "null" if value is None else str(value)
