"""A border: a place where data of others comes in, with the inputs that attack it and the reading that must stand them.

The borders stand in `borders_*.py`, damage is done in `mutate.py`, and `judge.py` says how a case ended.

Modules of this folder import each other by `from .border import Border`. pytest names the folder `tests.fuzz`; `run.py`
names it `fuzz`, since packages of others are called `tests` too.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "expect-accepted"  # a file in the folder of a case whose input is undamaged
UNDAMAGED = 0.1  # of all inputs


@dataclass(frozen=True)
class Border:
    """A place where data of others comes in.

    Attributes:
        name: of what is read, such as "recipe" or "jpeg".
        make: writes an input into an empty folder and gives what is to be read. The same random numbers make the same
            bytes, in whatever folder. How often to damage a sound input says `damages`.
        read: reads it with the product's own public functions, and asserts that what they give is sound.
        seconds: that a case may last.
        megabytes: of memory that a case may need.
        heavy: whether a case lasts so long that the short run has few.
    """

    name: str
    make: Callable[[random.Random, Path], Path]
    read: Callable[[Path], None]
    seconds: float = 10.0
    megabytes: int = 1500
    heavy: bool = False


def damages(rng: random.Random, folder: Path) -> int:
    """How often to damage the input of a case: 0 to 4 times.

    Where it is 0, the input must be accepted, so call this once and leave the input as it is then.

    Args:
        rng: the random numbers of the case.
        folder: of the case; it gets the file `MARK` if the input stays undamaged. If the input is a folder, make it
            inside this one.
    """
    if rng.random() < UNDAMAGED:
        (folder / MARK).touch()
        return 0
    return rng.choice((1, 1, 1, 2, 2, 3, 4))


def random_of(border: str, seed: int) -> random.Random:
    """The random numbers of a case."""
    return random.Random(f"{border} {seed}")


def all_borders(pattern: str = "borders_*.py") -> dict[str, Border]:
    """The borders of the modules of a pattern of file names, by name of the border."""
    modules = (path.stem for path in sorted(Path(__file__).parent.glob(pattern)))
    borders = [border for name in modules for border in importlib.import_module(f".{name}", __package__).BORDERS]
    names = [border.name for border in borders]
    assert len(set(names)) == len(names), "two borders have one name"
    return dict(zip(names, borders, strict=True))
