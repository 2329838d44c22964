"""The start of the `effdet` command: it refuses to run where another package has replaced files of this one.

PyPI's package effdet has the same import name. This module is outside the package effdet, so that nobody replaces it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

REMEDY = "pip uninstall -y effdet efficientdet-torch && pip install efficientdet-torch"


def main() -> int:
    """Runs `effdet VERB ...` and gives its exit status, 1 if the package effdet is not this one."""
    problem = other_package()
    if problem is not None:
        print(f"error: {problem}; run: {REMEDY}", file=sys.stderr)
        return 1
    from effdet.cli import main as run

    return run()


def other_package() -> str | None:
    """What is wrong with the package effdet that Python would import; None if it is this one and alone."""
    spec = importlib.util.find_spec("effdet")  # finds it without running it
    if spec is None or spec.origin is None:
        return "files of efficientdet-torch are missing, perhaps removed together with another package named effdet"
    folder = Path(spec.origin).parent
    if any(folder.parent.glob("effdet-*.dist-info")):
        return "another package named effdet is installed, which has files of the same names as efficientdet-torch"
    if not (folder / "cli" / "__init__.py").is_file():
        return f"Python imports another package named effdet, {folder}, instead of efficientdet-torch"
    return None
