"""What the engine trains: the table of tasks, one file for each, and their common half in `data.py`.

A third task is a file like `detection.py` and one line here; the loop is in `training/engine.py`.
"""

from __future__ import annotations

from rich.console import Console

from effdet.config import Config
from effdet.distributed import SINGLE, Processes
from effdet.training.tasks.classification import ClassificationTask
from effdet.training.tasks.detection import DetectionTask
from effdet.training.tasks.task import MicroBatch, TrainingTask

__all__ = ["TASKS", "MicroBatch", "TrainingTask", "make_task"]

TASKS: dict[str, type[TrainingTask]] = {"detection": DetectionTask, "classification": ClassificationTask}


def make_task(config: Config, console: Console, processes: Processes = SINGLE) -> TrainingTask:
    """The task of a recipe with its data and model; prints what was repaired in the data and which weights were loaded.

    Raises:
        EffdetError: data, weights or recipe cannot be used.
    """
    return TASKS[config.task](config, console, processes)
