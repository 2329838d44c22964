"""From a checkpoint to a file that other runtimes run. Start at `exporting.py`.

Running these files is in `effdet/runtimes`.
"""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """The package, to which Python binds the name `effdet.export` of the function `effdet.export.api.export`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from effdet.export.api import export

        return export(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
