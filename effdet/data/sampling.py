"""Which samples a run takes: what one is asked for by, and the order of the rows in an epoch.

What a sample is stands with the data sets, in `data/dataset.py` and `data/classify.py`; loading is in `data/loader.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """What a data set is asked for.

    Attributes:
        epoch: counted from 0.
        row: of the table.
        size: (H, W) of the sample; None for the data set's own.
    """

    epoch: int
    row: int
    size: tuple[int, int] | None = None
