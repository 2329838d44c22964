"""The command line: `effdet VERB`, one module per verb; `tools/VERB.py` are the same functions.

Only this package parses arguments, prints usage and decides exit statuses. A verb imports heavy modules when it runs,
so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from effdet.cli import status as statuses
from effdet.cli.faults import remedy
from effdet.cli.output import accept_any_text, open_closed_streams, print_error
from effdet.cli.parsing import make_parser, nearest, parse
from effdet.errors import EffdetError

VERBS = {
    "train": "train a detector or a classifier",
    "eval": "evaluate a checkpoint or an exported file on a data set",
    "report": "write the report of a run, or compare runs",
    "doctor": "name the cause when AP is near zero",
    "export": "write a model to a file for other runtimes",
    "verify": "compare an exported file with its model",
    "predict": "run a model on images, folders and videos",
    "benchmark": "measure speed and memory of models",
    "models": "list the models",
    "info": "parameters, FLOPs and memory of a model",
    "weights": "list, download and convert public weights",
    "plan": "find the settings with which a recipe fits into memory",
    "show-batch": "draw training images after augmentation",
    "replay": "rerun a training step that produced NaN or Inf",
    "config": "print a recipe with all defaults",
    "check": "check a data set before training",
    "anchors": "compare the anchors of a recipe with a data set",
    "review": "find wrong labels of a data set with a model",
    "convert": "write a data set in another format",
    "split": "split a data set anew to train, validate and test",
    "merge": "merge data sets by the names of their classes",
    "shards": "copy a data set into tar files of equal size",
    "synthetic": "generate the demo data set",
    "completion": "print a script for shell completion",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `effdet VERB ...` and gives its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in VERBS:
        return run_verb(arguments[0], arguments[1:], prog=f"effdet {arguments[0]}")
    width = max(map(len, VERBS))
    parser = argparse.ArgumentParser(
        prog="effdet",
        description="EfficientDet and EfficientNet: train, evaluate and predict.",
        epilog="\n".join(["verbs:", *(f"  {verb:{width}}  {about}" for verb, about in VERBS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.add_argument("verb", nargs="?", metavar="VERB", help="what to do; see VERB --help")
    if arguments and not arguments[0].startswith("-"):
        parser.error(f"unknown verb '{arguments[0]}'; {nearest(arguments[0], list(VERBS))}")
    if parser.parse_args(arguments).version:
        from effdet.version import __version__

        print(f"effdet {__version__}")
    else:
        parser.print_help()
    return 0


def run_verb(verb: str, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs one verb and gives its exit status; an error that the user can fix is printed without a traceback.

    Args:
        verb: one of `VERBS`.
        arguments: what follows the verb; None takes the command line.
        prog: name of the program in its usage.
    """
    open_closed_streams()
    accept_any_text()
    module = importlib.import_module(f"effdet.cli.{verb.replace('-', '_')}")
    parser = make_parser(prog, module.__doc__)
    module.add_arguments(parser)
    args = parse(parser, arguments)
    try:
        with _ended_by_sigterm():
            status: int = module.run(args)
            sys.stdout.flush()
    except EffdetError as error:
        return _failed(str(error))
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes what is left at exit
        return 0
    except OSError as error:
        sentence = remedy(error)
        if sentence is None:
            raise
        return _failed(sentence)
    except (RuntimeError, MemoryError) as error:
        from effdet.training.debug.out_of_memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _failed(
            "not enough memory; lower the batch size (eval.batch_size, --batch-size), or use a smaller model or "
            "another --device"
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return statuses.INTERRUPTED
    return status


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A context in which SIGTERM ends the program as an error does, so that nothing incomplete is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, b"terminated\n")  # directly, because a print must not be interrupted by another one
        raise SystemExit(statuses.TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failed(message: str) -> int:
    """Prints an error, with the rank if there are several processes, and gives the exit status."""
    rank = os.environ.get("RANK") if os.environ.get("WORLD_SIZE", "1") != "1" else None  # set by torchrun
    print_error(f"error: {message}" if rank is None else f"error in process {rank}: {message}")
    return statuses.FAILED
