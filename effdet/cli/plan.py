"""Find what batch, precision and checkpointing fit into a memory, by running single steps of a recipe.

effdet plan configs/d4.yaml --memory 11GB

The largest images of the recipe are taken, with many objects and without content: no data set is read. The recipe's
train.batch_size stays; the answer is in how many parts a batch is computed, and whether activations are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from effdet.cli.recipes import add_recipe_arguments, read_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from effdet.training.debug.memory import Measured, Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `plan` to a parser."""
    add_recipe_arguments(parser)
    parser.add_argument("--memory", required=True, metavar="SIZE", help="memory there is, such as 11GB, 11GiB, 8000MB")
    parser.add_argument("--device", help="where to measure: cpu or cuda (a GPU where there is one)")


def run(args: argparse.Namespace) -> int:
    """Measures and prints what fits; the exit status is 0, or 1 where nothing fits.

    Raises:
        EffdetError: the recipe cannot be used, or the memory of a step cannot be measured.
    """
    from rich.console import Console

    from effdet.training.debug.memory import largest_image, num_classes, parse_size, plan

    config = read_recipe(args)
    memory = parse_size(args.memory)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    height, width = largest_image(config)
    classes = f"{num_classes(config)} classes"
    classes += "" if config.model.num_classes else " (as many as usual; set model.num_classes for those of your data)"
    console.print(f"{config.model.name}, images of {height} x {width}, {classes}; measuring single steps")
    steps: list[Measured] = []

    def show(step: Measured) -> None:
        steps.append(step)
        status.update(f"measured {_in_words(step)}; going on ...")

    with console.status("measuring a step of 1 image ...") as status:
        found = plan(config, memory, args.device, show)
    _print_steps(steps, console)
    _print_advice(found, config.train.batch_size, args.memory, console)
    return 0 if found.best else 1


def _in_words(step: Measured) -> str:
    """A measured step in a line."""
    how = f"{step.images} image{'s' if step.images > 1 else ''}" + (", checkpointing" if step.checkpointing else "")
    if step.memory is None:
        return f"{how}: more memory than there is"
    return f"{how}: {step.memory / 1e9:.2f} GB, {step.seconds:.2f} s per image"


def _print_steps(steps: Sequence[Measured], console: Console) -> None:
    from rich.table import Table

    table = Table("images at once", "checkpointing", box=None, pad_edge=False)
    for column in ("GB", "s per image"):
        table.add_column(column, justify="right")
    for step in steps:
        figures = ("too many", "") if step.memory is None else (f"{step.memory / 1e9:.2f}", f"{step.seconds:.2f}")
        table.add_row(str(step.images), "yes" if step.checkpointing else "no", *figures)
    console.print(table, "", sep="\n")


def _print_advice(found: Plan, batch_size: int, memory: str, console: Console) -> None:
    if found.best is None:
        advice = "take a smaller network"
        if found.smaller_side:
            advice = f"set model.image_size=[{found.smaller_side},{found.smaller_side}] or {advice}"
        if found.precision == "float32":
            advice = f"set train.precision=bf16, {advice}"
        console.print(f"not one image fits into {memory} in {found.precision}; {advice}")
        return
    console.print(
        f"fits into {memory} with a tenth to spare, in {found.precision}: steps of {batch_size} images, "
        f"{found.best.images} at once"
    )
    precision = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[found.precision]
    checkpointing = str(found.best.checkpointing).lower()
    console.print(
        f"  train.accumulation_steps={found.accumulation_steps} train.precision={precision} "
        f"train.checkpoint_activations={checkpointing}"
    )
