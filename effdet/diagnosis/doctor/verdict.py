"""Checks of a diagnosis, and the rule that says which of them names the cause.

The checks themselves are made in `prediction_checks.py`, `model_checks.py` and `training_checks.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

JUMP_FACTOR = 1.5  # a check names a cause if it raises the metric by this factor
JUMP_MARGIN = 0.05  # and by this much
LAST_FACTOR = 3.0  # of the checks that are `last`: many sound models overfit, or take one class for another
NEARLY_BEST = 0.9  # of checks that jump, the first that reaches this fraction of the highest names the cause
NEAR_CHANCE = 1.5  # the same for accuracy, as a multiple of that of guessing


@dataclass(frozen=True)
class Check:
    """One thing that was changed, and the metric with it.

    Attributes:
        change: what was changed, the row of the table.
        value: metric with the change, a fraction; None if it could not be measured.
        before: metric without it, of the same images and classes.
        cause: what is wrong if the metric jumps, the beginning of a sentence.
        remedy: what to do then, its end.
        how: how the metric was measured, in the middle of the sentence.
        last: whether it names the cause only if no other check jumps, because its metric is of an easier task.
    """

    change: str
    value: float | None
    before: float
    cause: str
    remedy: str
    how: str = "with this undone"
    last: bool = False

    @property
    def jumps(self) -> bool:
        """Whether the change raises the metric so much that it names a cause."""
        before = max(self.before, 0.0)
        factor = LAST_FACTOR if self.last else JUMP_FACTOR
        return self.value is not None and self.value >= max(before * factor, before + JUMP_MARGIN)

    def sentence(self, metric: str) -> str:
        """The cause in one sentence."""
        assert self.value is not None
        before = max(self.before, 0.0)
        return f"{self.cause}: {metric} is {self.value:.1%} {self.how} instead of {before:.1%}; {self.remedy}"


@dataclass(frozen=True)
class Diagnosis:
    """The result for a model or its predictions.

    Attributes:
        sentence: the cause and what to do, or that there is no fault.
        healthy: whether no check names a fault.
        checks: all that was measured, in order.
        facts: what else was noticed, one line each.
        metric: name of the metric of the checks.
    """

    sentence: str
    healthy: bool
    checks: tuple[Check, ...] = ()
    facts: tuple[str, ...] = ()
    metric: str = "AP"


def first_jump(checks: Sequence[Check]) -> Check | None:
    """The check that names the cause: the first that jumps and whose metric is within a tenth of the highest such one.

    So a change that undoes the fault by half does not come before the one that undoes it. The checks marked as `last`
    count only if no other jumps, and then the first of them.
    """
    jumping = [check for check in checks if check.jumps and not check.last]
    if not jumping:
        return next((check for check in checks if check.jumps), None)
    best = max(check.value or 0.0 for check in jumping)
    return next((check for check in jumping if (check.value or 0.0) >= NEARLY_BEST * best), None)


def checks_table(checks: Sequence[Check], metric: str) -> Table:
    """The checks as a table for the terminal: change, metric with it, metric without it, and whether it jumps."""
    table = Table("what was changed", box=None, pad_edge=False)
    table.add_column(f"{metric} %", justify="right")
    table.add_column("before", justify="right")
    table.add_column("")
    for check in checks:
        value = "\u2013" if check.value is None or check.value < 0 else f"{100 * check.value:.1f}"
        before = "\u2013" if check.before < 0 else f"{100 * check.before:.1f}"
        table.add_row(check.change, value, before, "jumps" if check.jumps else "")
    return table
