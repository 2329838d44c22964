"""The arguments that all verbs with exported files have: how many threads they run with, and missing metadata.

Opening files is in `effdet/runtimes/opening.py`.
"""

from __future__ import annotations

import argparse

from effdet.cli.parsing import integer


def add_runtime_arguments(parser: argparse.ArgumentParser, metadata: bool = True) -> None:
    """Adds --threads and, unless the verb does not need it, --metadata."""
    parser.add_argument(
        "--threads", type=integer(4096), metavar="N", help="CPU threads of the runtime (default: its own choice)"
    )
    if metadata:
        parser.add_argument(
            "--metadata",
            metavar="FILE",
            help="for an exported file whose metadata is missing: its checkpoint, or a JSON file with the metadata",
        )
