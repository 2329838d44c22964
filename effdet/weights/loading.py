"""Putting a state dict into a model with a report of what happened; a load that fits only in part is refused.

Where weights come from is told in `sources.py`, how foreign names read in `names.py`, our own files in `checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from effdet.errors import WeightsError


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        source: where the weights came from.
        loaded: names of the model that were filled.
        reinitialised: names of the model that kept their fresh values.
        left_over: names of the source that the model has no use for.
        head: what became of the rows of the last layer, in words; empty where they were loaded as they are.
    """

    source: str
    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...]
    left_over: tuple[str, ...]
    head: str = ""

    def lines(self) -> list[str]:
        """The report in three lines."""
        head = f"; {self.head}" if self.head else ""
        return [
            f"weights: loaded {len(_weights(self.loaded))} tensors from {self.source}",
            f"  newly initialised: {_listing(self.reinitialised)}{head}",
            f"  left over in the file: {_listing(self.left_over)}",
        ]


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], source: str, *, fresh: Sequence[str] = (), unused: Sequence[str] = ()
) -> LoadReport:
    """Fills a model by name and shape.

    Args:
        model: the model, changed in place and only if the load is accepted.
        state: tensors under the model's names.
        source: what to call the weights in messages.
        fresh: prefixes of names in the model that may stay as they are if the source lacks them or has another shape.
        unused: prefixes of names in the source that the model may lack.

    Raises:
        WeightsError: anything else is missing, left over or of another shape.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    absent = _weights([name for name in own if name not in fitting])
    extra = _weights([name for name in state if name not in own])
    wrong = [name for name in absent if not name.startswith(tuple(fresh))]
    strange = [name for name in extra if not name.startswith(tuple(unused))]
    if wrong or strange or not fitting:
        raise WeightsError(_misfit(source, own, state, wrong, strange))
    model.load_state_dict(fitting, strict=False)
    return LoadReport(source, tuple(fitting), tuple(absent), tuple(extra))


def _weights(names: Sequence[str]) -> list[str]:
    """The names but those of the norms' counters, which mean nothing here."""
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _misfit(
    source: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: Sequence[str], strange: Sequence[str]
) -> str:
    reasons = []
    shapes = [name for name in wrong if name in state]
    missing = [name for name in wrong if name not in state]
    if shapes:
        name = shapes[0]
        theirs, ours = list(state[name].shape), list(own[name].shape)
        reasons.append(f"{len(shapes)} tensors differ in shape ('{name}' is {theirs}, the model needs {ours})")
    if missing:
        reasons.append(f"{len(missing)} tensors of the model are missing ('{missing[0]}')")
    if strange:
        reasons.append(f"{len(strange)} tensors have no place in the model ('{strange[0]}')")
    return f"{source}: these weights are of another model: {'; '.join(reasons)}; check model.name and model.weights"


def _listing(names: Sequence[str]) -> str:
    """Count and top modules of some names, such as '4 (class_head.predict)'."""
    if not names:
        return "nothing"
    return f"{len(names)} ({some_of(list(dict.fromkeys('.'.join(name.split('.')[:2]) for name in names)))})"


def some_of(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
