"""The same as `effdet benchmark`."""

from effdet.cli import run_verb

if __name__ == "__main__":
    raise SystemExit(run_verb("benchmark"))
