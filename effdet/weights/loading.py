"""Loading a state dict into a model, with a report; a state dict that fits only partly is refused.

Where weights come from is in `pretrained.py`, other systems' names in `names.py`, our own files in `checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from effdet.errors import WeightsError
from effdet.weights.content import check_finite_weights


@dataclass(frozen=True)
class LoadReport:
    """Which weights were loaded, initialised and unused.

    Attributes:
        source: where the weights came from.
        loaded: names in the model that were loaded.
        initialised: names in the model that kept their initial values.
        unused: names in the source that the model does not have.
        head: what happened to the rows of the last layer, in words; empty if they were loaded as they are.
    """

    source: str
    loaded: tuple[str, ...]
    initialised: tuple[str, ...]
    unused: tuple[str, ...]
    head: str = ""

    @property
    def complete(self) -> bool:
        """Whether all weights of the model come from the source and all of the source are used."""
        return not (self.initialised or self.unused or self.head)

    def lines(self) -> list[str]:
        """The report in three lines."""
        head = f"; {self.head}" if self.head else ""
        return [
            f"weights: loaded {len(_weights(self.loaded))} tensors from {self.source}",
            f"  initialised: {_listing(self.initialised)}{head}",
            f"  unused: {_listing(self.unused)}",
        ]


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], source: str, *, fresh: Sequence[str] = (), unused: Sequence[str] = ()
) -> LoadReport:
    """Loads tensors into a model by name and shape.

    Args:
        model: the model, changed in place, but not if the state is refused.
        state: tensors under the model's names.
        source: name of the weights in messages.
        fresh: prefixes of names in the model that keep their initial values where the source has no tensor of that
            name and shape.
        unused: prefixes of names in the source that the model need not have.

    Raises:
        WeightsError: any other tensor is missing, unused or of another shape, or one holds NaN or Inf.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    absent = _weights([name for name in own if name not in fitting])
    extra = _weights([name for name in state if name not in own])
    wrong = [name for name in absent if not name.startswith(tuple(fresh))]
    strange = [name for name in extra if not name.startswith(tuple(unused))]
    if wrong or strange or not fitting:
        raise WeightsError(_misfit(source, own, state, wrong, strange))
    check_finite_weights(fitting, source)
    model.load_state_dict(fitting, strict=False)
    return LoadReport(source, tuple(fitting), tuple(absent), tuple(extra))


def _weights(names: Sequence[str]) -> list[str]:
    """The names without those of BatchNorm's counters, which have no effect here."""
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
        reasons.append(f"{len(strange)} tensors are not in the model ('{strange[0]}')")
    return f"{source}: these weights belong to another model: {'; '.join(reasons)}; check model.name and model.weights"


def _listing(names: Sequence[str]) -> str:
    """Count and top modules of some names, such as '4 (class_head.predict)'."""
    if not names:
        return "nothing"
    return f"{len(names)} ({some_of(list(dict.fromkeys('.'.join(name.split('.')[:2]) for name in names)))})"


def some_of(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
