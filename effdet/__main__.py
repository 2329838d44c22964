"""Runs the command line as `python -m effdet VERB ...`; the verbs are in `effdet/cli`."""

import sys

from effdet.cli import main

if __name__ == "__main__":
    sys.exit(main())
