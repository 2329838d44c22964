"""Find how a recipe fits into a memory, by running single training steps.

  effdet plan d4 --memory 11GB

Uses blank images of the largest size of the recipe, with many objects; reads no data set. train.batch_size stays as it
is: the answer is how many gradient accumulation steps it needs, and whether to checkpoint activations.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from effdet.cli.recipes import add_recipe_arguments, read_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from effdet.training.debug.memory import MeasuredStep, MemoryPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `plan` to a parser."""
    add_recipe_arguments(parser)
    parser.add_argument(
        "--memory", required=True, metavar="SIZE", help="memory of the device, such as 11GB, 11GiB, 8000MB"
    )
    parser.add_argument("--device", help="where to measure: cpu or cuda (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Measures and prints what fits; the exit status is 0, or 1 where nothing fits.

    Raises:
        EffdetError: the recipe cannot be used, or the memory of a step cannot be measured.
    """
    from effdet.console import PlainConsole
    from effdet.models import make_spec
    from effdet.training.debug.memory import assumed_num_classes, parse_memory_size, plan_memory
    from effdet.training.tasks import TASKS
    from effdet.weights.create import options_of

    config = read_recipe(args)
    memory = parse_memory_size(args.memory)
    console = PlainConsole()
    height, width = TASKS[config.task].largest_image(config, make_spec(options_of(config.model)).image_size)
    classes = f"{assumed_num_classes(config)} classes"
    classes += "" if config.model.num_classes else " (assumed; set model.num_classes to that of your data)"
    console.print(f"{config.model.name}, images of {height} x {width}, {classes}; measuring single steps")
    steps: list[MeasuredStep] = []

    def show(step: MeasuredStep) -> None:
        steps.append(step)
        status.update(f"measured {_in_words(step)} ...")

    with console.status("measuring a step of 1 image ...") as status:
        result = plan_memory(config, memory, args.device, show)
    _print_steps(steps, console)
    _print_advice(result, config.train.batch_size, args.memory, console)
    return 0 if result.best else 1


def _in_words(step: MeasuredStep) -> str:
    """A measured step in a line."""
    how = f"{step.images} image{'s' if step.images > 1 else ''}" + (
        ", activation checkpointing" if step.checkpointing else ""
    )
    if step.memory is None:
        return f"{how}: out of memory"
    return f"{how}: {step.memory / 1e9:.2f} GB, {step.seconds:.2f} s per image"


def _print_steps(steps: Sequence[MeasuredStep], console: Console) -> None:
    from rich.table import Table

    table = Table("images per forward pass", "activation checkpointing", box=None, pad_edge=False)
    for column in ("GB", "s per image"):
        table.add_column(column, justify="right")
    for step in steps:
        cells = ("out of memory", "") if step.memory is None else (f"{step.memory / 1e9:.2f}", f"{step.seconds:.2f}")
        table.add_row(str(step.images), "yes" if step.checkpointing else "no", *cells)
    console.print(table, "", sep="\n")


def _print_advice(result: MemoryPlan, batch_size: int, memory: str, console: Console) -> None:
    if result.best is None:
        advice = "use a smaller network"
        if result.smaller_side:
            advice = f"set model.image_size=[{result.smaller_side},{result.smaller_side}] or {advice}"
        if result.precision == "float32":
            advice = f"set train.precision=bf16, {advice}"
        console.print(f"not one image fits into {memory} in {result.precision}; {advice}")
        return
    console.print(
        f"fits into {memory} with a tenth to spare, in {result.precision}: steps of {batch_size} images, "
        f"{result.best.images} per forward pass"
    )
    precision = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[result.precision]
    checkpointing = str(result.best.checkpointing).lower()
    console.print(
        f"  train.accumulation_steps={result.accumulation_steps} train.precision={precision} "
        f"train.activation_checkpointing={checkpointing}"
    )
