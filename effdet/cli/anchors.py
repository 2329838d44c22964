"""Compare the anchors of a recipe with the objects of its data set, and suggest input size, anchor scale and aspects.

  effdet anchors finetune data.root=/data/mine
  effdet anchors data.root=/data/mine --write suggestion.yaml
  effdet anchors --weights runs/mine/best.pt

Shows which objects have an anchor of IoU 0.5 or more, by size and class, the positive anchors of each level, and what
other settings would bring. Without a recipe one is chosen as by `effdet train`. Objects are those of the training split
in the plain letterbox, without augmentation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.cli.recipes import add_recipe_arguments, overrides, recipe_path
from effdet.errors import ConfigError
from effdet.files import full_path

if TYPE_CHECKING:
    from rich.console import Console

    from effdet.config import ClassificationConfig, DetectionConfig
    from effdet.diagnosis.anchors.suggestion import Suggestion
    from effdet.models import EfficientDetSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `anchors` to a parser."""
    add_recipe_arguments(parser, optional=True)
    parser.add_argument("--weights", metavar="PATH", help="checkpoint whose anchors, recipe and data set are used")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the suggestion as a recipe")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - for standard output")


def run(args: argparse.Namespace) -> int:
    """Prints what the anchors reach and what to change; the exit status is 0.

    Raises:
        EffdetError: recipe, data set or weights cannot be used, or the data set has no objects.
    """
    from effdet.cli.anchor_tables import print_report, print_suggestion
    from effdet.console import PlainConsole
    from effdet.diagnosis.anchors.coverage import analyze, objects_of
    from effdet.diagnosis.anchors.suggestion import suggest
    from effdet.training.tasks.data import show_tables

    console = PlainConsole(stderr=args.json == "-")
    base, config, spec = _recipe(args, console)
    if args.write is not None and full_path(args.write).resolve() == base.resolve():
        raise ConfigError(f"--write {args.write}: this is the recipe itself; choose another file")
    objects = objects_of(show_tables(config.data, console).train)
    report = analyze(objects, spec)
    print_report(report, console)
    suggestion = suggest(objects, spec, cut_padding=not config.data.rectangular)
    print_suggestion(suggestion, _cautions(config, suggestion), console)
    _write(args, base, config, report, suggestion, console)
    return 0


def _recipe(args: argparse.Namespace, console: Console) -> tuple[Path, DetectionConfig, EfficientDetSpec]:
    """The file of the recipe, the recipe, and its detector."""
    from effdet.config import load_config
    from effdet.config.recipe_files import find_recipe
    from effdet.diagnosis.anchors.recipe import detector_of
    from effdet.training.automatic import RECIPES, choose_recipe

    path, changes = recipe_path(args), overrides(args)
    if args.weights is not None:
        return _of_checkpoint(args.weights, path, changes)
    if path is None and not any(change.startswith("data") for change in changes):
        raise ConfigError("no recipe and no data set is given; name a recipe, or add data.root=FOLDER")
    config = choose_recipe(changes, None, console) if path is None else load_config(path, changes)
    spec = detector_of(config)
    assert config.task == "detection"  # else there is no detector
    return path or find_recipe(RECIPES[config.task]), config, spec


def _of_checkpoint(
    weights: str, path: Path | None, changes: list[str]
) -> tuple[Path, DetectionConfig, EfficientDetSpec]:
    """The same of a checkpoint, with the recipe stored in it if none is given."""
    from dataclasses import replace

    from effdet.config.recipe_files import find_recipe
    from effdet.evaluation.evaluate_checkpoint import evaluation_config
    from effdet.models import EfficientDetSpec
    from effdet.runtimes.opening import open_model
    from effdet.training.automatic import RECIPES

    card = open_model(weights).card
    if not isinstance(card.spec, EfficientDetSpec):
        raise ConfigError(f"{weights}: a classifier, but only detectors have anchors; name the weights of a detector")
    config, _ = evaluation_config(card, weights, path, changes)
    assert config.task == "detection"  # as the weights, which is checked
    spec = replace(card.spec, image_size=config.model.image_size or card.spec.image_size)
    return path or find_recipe(RECIPES[config.task]), config, spec


def _cautions(config: DetectionConfig | ClassificationConfig, suggestion: Suggestion) -> list[str]:
    """What to keep in mind about a suggestion, one line each."""
    from effdet.diagnosis.anchors.recipe import starts_from_detector

    lines = []
    cost = suggestion.together.multiply_adds
    if cost > 1:
        lines.append(f"A step takes about {cost:.2f} times as long: compare trainings of equal time.")
    other = {"anchor_scale", "anchor_aspects"} & set(suggestion.changes)
    if other and config.task == "detection" and starts_from_detector(config):
        lines.append(
            f"The weights {config.model.weights} were trained with the present anchors; the heads adapt to others in "
            "training, so compare both."
        )
    return lines


def _write(
    args: argparse.Namespace,
    base: Path,
    config: DetectionConfig,
    report: dict[str, Any],
    suggestion: Suggestion,
    console: Console,
) -> None:
    """Writes the recipe and the JSON file that the arguments ask for."""
    from effdet.diagnosis.anchors.recipe import suggested_recipe
    from effdet.files import write_json, write_text

    whole = {**report, "suggestion": suggestion.to_dict()}
    try:
        if args.write is not None:
            comment = "Suggested by `effdet anchors`"
            comment += f": no change, {suggestion.reason}" if suggestion.reason else ""
            path = full_path(args.write)
            write_text(path, suggested_recipe(base, config, suggestion.changes, path.parent, comment))
            console.print(f"written: {args.write}; next: effdet train {args.write}")
        if args.json == "-":
            print(json.dumps(whole, indent=2))
        elif args.json is not None:
            write_json(Path(args.json), whole)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror}); choose another file") from None
