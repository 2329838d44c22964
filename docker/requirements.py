"""Prints the dependencies that pyproject.toml declares, one per line, with those of the extras that are named.

python requirements.py imagenet heic
"""

import sys
from pathlib import Path

import tomllib

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [project["optional-dependencies"][name] for name in sys.argv[1:]]
print("\n".join([*project["dependencies"], *(line for extra in extras for line in extra)]))
