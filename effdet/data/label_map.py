"""The classes of a data set: label, category id and name of each.

Tables, checkpoints and written results carry one. How names are matched with known classes is in `data/formats`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LabelMap:
    """Label <-> category id <-> name. Labels are numbered in ascending order of the ids; there is no background class.

    Attributes:
        names: name of each label, K names.
        category_ids: the data set's own id of each label, K ids: 0-based, 1-based or sparse.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def label_of(self) -> dict[int, int]:
        """Label of every category id."""
        return {category_id: label for label, category_id in enumerate(self.category_ids)}

    def in_ids_of(self, other: LabelMap) -> LabelMap:
        """The same labels with the category ids that another data set uses for the same names.

        A class that the other data set lacks keeps its id, or gets one above all others if that id is in use there.
        """
        id_of_name, used = dict(zip(other.names, other.category_ids, strict=True)), set(other.category_ids)
        unused = itertools.count(max((*self.category_ids, *other.category_ids)) + 1)
        ids = (
            id_of_name[name] if name in id_of_name else next(unused) if category_id in used else category_id
            for name, category_id in zip(self.names, self.category_ids, strict=True)
        )
        return replace(self, category_ids=tuple(ids))
