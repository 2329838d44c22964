"""Check a data set before training: what is wrong with its images, boxes, classes and splits.

  effdet check /data/coins
  effdet check /data/coins data.train.images=photos --html coins.html
  effdet check mine.yaml --json - --fix /data/coins-clean

DATA is the folder of a data set of any format, or its annotation file; a recipe stands for the data set that it names.
Every split is read and every image is decoded. The exit status is 0 if there are no problems, notes aside, 3 if there
are some, and 1 if the data set cannot be checked.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli import status
from effdet.cli.parsing import integer
from effdet.cli.recipes import recipe_path
from effdet.errors import ConfigError, DataError
from effdet.files import full_path
from effdet.types import Task

if TYPE_CHECKING:
    from effdet.config import ClassificationConfig, DetectionConfig
    from effdet.data.check import DataCheck
    from effdet.report.check_page import Picture

_SOURCE = "effdet check"
_MODELS: dict[Task, str] = {"detection": "efficientdet_d0", "classification": "efficientnet_b0"}  # without a recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `check` to a parser."""
    parser.add_argument(
        "recipe",
        nargs="+",
        metavar="DATA|RECIPE|section.key=value",
        help="folder or annotation file of a data set, or a recipe; then overrides such as data.train.images=photos",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for standard output")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the images concerned")
    parser.add_argument(
        "--images", type=integer(10**9), default=12, metavar="N", help="images on the page per finding (%(default)s)"
    )
    parser.add_argument(
        "--fix", type=Path, metavar="OUT", help="write a cleaned copy of the data set into a new folder"
    )


def run(args: argparse.Namespace) -> int:
    """Checks the data set; the exit status is 3 if it has problems, else 0.

    Raises:
        EffdetError: there is no such data set, or a file cannot be written.
    """
    from effdet.console import PlainConsole
    from effdet.data.convert import check_empty
    from effdet.report.check_text import check_text, verdict_text

    if args.images < 0:
        raise ConfigError(f"--images {args.images}: expected 0 or more")
    config = _config(args)
    if args.fix is not None:
        check_empty(args.fix)
    check = _check(config)
    report = check.to_dict()
    console = PlainConsole(stderr=args.json == "-", soft_wrap=False)
    if args.json == "-":
        print(json.dumps(report, indent=2))
    else:
        console.print(check_text(report), "", sep="\n")
    _write_reports(args, check, config)
    if args.fix is not None:
        from effdet.data.check import write_cleaned

        console.print(*write_cleaned(check, args.fix), "", sep="\n", markup=False, soft_wrap=True)
    if args.json != "-":
        console.print(verdict_text(report))
    return status.BAD_INPUTS if check.problems else status.DONE


def _config(args: argparse.Namespace) -> DetectionConfig | ClassificationConfig:
    """The recipe, or that of a data set alone.

    Raises:
        ConfigError: DATA is neither a data set nor a recipe, or an override is unknown.
    """
    from effdet.config import load_config, make_config

    first, *others = args.recipe
    data = [first] if full_path(first).exists() else []  # even with an equals sign in its name
    names = [*data, *(text for text in (others if data else args.recipe) if "=" not in text)]
    changes = [text for text in args.recipe if text not in names]
    path = full_path(names[0]) if len(names) == 1 else None
    if not names:
        return make_config({"model": {"name": _MODELS["detection"]}}, changes, source=_SOURCE)
    if path is not None and path.exists() and (path.suffix not in (".yaml", ".yml") or _is_data_file(path)):
        return _config_of_data(path, changes)
    try:
        recipe = recipe_path(args)
    except ConfigError:
        if path is None or path.exists():
            raise
        recipe = None
    if recipe is None or not recipe.exists():
        raise ConfigError(f"{names[0]}: neither a data set nor a recipe; name the folder of a data set")
    return load_config(recipe, changes)


def _config_of_data(path: Path, changes: list[str]) -> DetectionConfig | ClassificationConfig:
    """A recipe for the data set at a path; its task is that of its format, or of the overrides."""
    from effdet.config import make_config
    from effdet.data.data_set import task_at
    from effdet.data.formats import task_of_data

    def recipe(task: Task) -> DetectionConfig | ClassificationConfig:
        # With a size of its own the model need not be built, which would load torch.
        model = {"name": _MODELS[task], "image_size": [512, 512]}
        tree = {"task": task, "model": model, "data": {"root": str(path)}}
        return make_config(tree, changes, source=_SOURCE)

    if any(text.startswith("task=") for text in changes):
        return recipe("detection")
    recipes = {task: recipe(task) for task in _MODELS}
    try:
        return recipes[task_of_data([config.data for config in recipes.values()])]
    except DataError:
        return recipes[task_at(path)]  # there is no training split; if there is no data set at all, this says so too


def _is_data_file(path: Path) -> bool:
    """Whether a YAML file is the description of a YOLO data set, and not a recipe."""
    from effdet.files import read_text
    from effdet.plain_data import parse_yaml

    try:
        tree = parse_yaml(read_text(path), as_texts=True)
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and "names" in tree


def _check(config: DetectionConfig | ClassificationConfig) -> DataCheck:
    """Checks the data set of a recipe, with a progress bar on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from effdet.console import PlainConsole
    from effdet.data.check import check_data
    from effdet.types import Letterbox, PostprocessOptions

    size, most = (512, 512), PostprocessOptions.max_detections
    letterbox: Letterbox = "pad"
    if config.task == "detection":
        size, most = _input_size(config), config.postprocess.max_detections
        letterbox = config.model.letterbox or letterbox
    console = PlainConsole(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading images", total=None)
        return check_data(
            config.data,
            size,
            most,
            lambda done, total: progress.update(bar, completed=done, total=total),
            letterbox,
        )


def _input_size(config: DetectionConfig | ClassificationConfig) -> tuple[int, int]:
    """(H, W) of the model input in pixels."""
    if config.model.image_size is not None:
        return config.model.image_size
    from effdet.models import make_spec
    from effdet.weights.create import options_of

    return make_spec(options_of(config.model)).image_size


def _write_reports(args: argparse.Namespace, check: DataCheck, config: DetectionConfig | ClassificationConfig) -> None:
    """Writes the JSON file and the page that the arguments ask for."""
    from effdet.data.check.pictures import finding_pictures
    from effdet.files import write_json
    from effdet.report.check_page import write_check_page

    def pictures(number: int) -> list[list[Picture]]:
        return finding_pictures(check, check.findings[number], args.images, config.data.value_range)

    try:
        if args.json not in (None, "-"):
            write_json(Path(args.json), check.to_dict())
        if args.html is not None:
            write_check_page(args.html, check.to_dict(), pictures)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror}); choose another file") from None
