"""Training and evaluation as two functions: `effdet.train` and `effdet.evaluate`, which the command line calls too.

They read the recipe, choose folder and device, join the processes that torchrun started, and call the engine.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effdet.config import ClassificationConfig, DataConfig, DetectionConfig, load_config, make_config
from effdet.console import PlainConsole
from effdet.diagnosis.doctor.quick import quick_diagnosis
from effdet.distributed import is_first_process, process_group
from effdet.errors import ConfigError
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.evaluate_checkpoint import RESULTS, evaluate_model, evaluation_config, results_folder
from effdet.evaluation.reference import comparison_line
from effdet.evaluation.tables import metrics_table
from effdet.files import full_path
from effdet.runtimes.opening import open_model
from effdet.text import count_of
from effdet.training import engine
from effdet.training.automatic import choose_recipe
from effdet.training.run_folder import own_folders, recipe_of_run
from effdet.training.setup import place_of
from effdet.training.stopping import Ending
from effdet.types import Precision


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a training run.

    Attributes:
        folder: the run's folder; best.pt in it has the weights to use.
        metrics: those of best.pt as fractions, such as {"AP": ..., "AP50": ...}; empty without a validation split.
        ending: "finished", or why the run stopped before: "interrupted", "terminated" or "out of time".
    """

    folder: Path
    metrics: dict[str, float]
    ending: Ending


def train(
    recipe: str | Path | DetectionConfig | ClassificationConfig | None = None,
    overrides: Sequence[str] = (),
    *,
    data: str | Path | None = None,
    output_dir: str | Path | None = None,
    device: str | None = None,
    resume: str | Path | None = None,
) -> TrainResult:
    """Trains a detector or a classifier; the same as `effdet train`.

    Example:
        >>> result = effdet.train(data="/data/mine")
        >>> result = effdet.train("lite0", ["data.root=/data/coco", "train.epochs=50"])
        >>> print(result.metrics["AP"])
        >>> predictor = effdet.Predictor(result.folder / "best.pt")
        >>> effdet.train(resume=result.folder, overrides=["train.epochs=100"])

    Args:
        recipe: a YAML file, the name of a recipe such as "finetune", or a recipe from `load_config`. None for that of
            the run which is resumed, or for one that fits the data set, the weights at hand and the hardware.
        overrides: changes to it, written section.key=value.
        data: folder of the data set, the same as data.root.
        output_dir: the run's folder; None for `output_dir` of the recipe, or else runs/NAME with the name of the
            recipe's file, of the data set or of the model.
        device: such as 'cpu' or 'cuda:0'; None for a GPU if there is one.
        resume: folder or last.pt of a run to continue, or 'auto' for the newest run of the recipe, if there is one.

    Raises:
        ConfigError: recipe, device or folder cannot be used.
        DataError: the data cannot be read.
        WeightsError: the weights to start from cannot be used.
        TrainingError: the loss became NaN or Inf.
    """
    overrides = [*overrides, *([] if data is None else [f"data.root={data}"])]
    config, file = _training_recipe(recipe, overrides, device, resume)
    if output_dir is not None:
        config = config.model_copy(update={"output_dir": Path(output_dir)})
    with process_group(device, config.train.timeout_minutes) as (processes, own_device), contextlib.ExitStack() as own:
        console = _console(processes.is_main)
        # The main process chooses for all, before any of them writes.
        chosen: tuple[Path | None, Path] = (None, Path())
        if processes.is_main:
            to_continue = None if resume is None else str(resume)
            chosen = own.enter_context(own_folders(config.output_dir, file, to_continue, console))
        earlier, folder = processes.broadcast(chosen)
        ending = engine.train(config, folder, str(own_device), earlier, console, processes)
        # All wait until the main process has saved: torchrun ends the others when one exits with a status.
        return processes.broadcast(TrainResult(folder, _metrics_in(folder) if processes.is_main else {}, ending))


def evaluate(
    weights: str | Path,
    recipe: str | Path | DetectionConfig | ClassificationConfig | None = None,
    overrides: Sequence[str] = (),
    *,
    device: str | None = None,
    output_dir: str | Path | None = None,
    threads: int | None = None,
    metadata: str | Path | None = None,
    save_predictions: str | Path | None = None,
    pycocotools: bool = False,
) -> dict[str, float]:
    """Evaluates a checkpoint or an exported file on the validation split of a data set; the same as `effdet eval`.

    PyTorch computes in float32 here, in whatever precision the model was trained, so that its metrics are the same
    everywhere.

    Example:
        >>> metrics = effdet.evaluate("runs/mine/best.pt")
        >>> metrics = effdet.evaluate("efficientdet_d0", overrides=["data.root=/data/coco"])
        >>> print(metrics["AP50"])

    Args:
        weights: a checkpoint such as runs/NAME/best.pt, an exported file, or the name of public weights.
        recipe: a YAML file, or a recipe from `load_config`; None for the recipe stored in the checkpoint.
        overrides: changes to it, written section.key=value.
        device: such as 'cpu' or 'cuda:0'; None for a GPU if there is one.
        output_dir: folder for metrics.json, predictions.json and more; None for a new one beside the checkpoint.
        threads: CPU threads of the runtime; None for its own choice.
        metadata: for an exported file whose metadata is missing: its checkpoint, or a JSON file with the metadata.
        save_predictions: file for the detections as COCO's server takes them.
        pycocotools: whether to compute a detector's metrics by pycocotools too and to print the largest difference.

    Returns:
        The metrics as fractions; -1 for those that the data set cannot give, such as APl without large objects.

    Raises:
        ConfigError: recipe, device or folder cannot be used.
        DataError: the data cannot be read.
        WeightsError: the weights cannot be used.
    """
    model = open_model(weights, threads=threads, metadata=metadata)
    card = model.card
    if card.task != "detection" and (save_predictions or pycocotools):
        raise ConfigError(f"{weights} is a classifier; COCO results and pycocotools are for detectors alone")
    precision: Precision = "auto" if model.exported else "fp32"
    config, lines = evaluation_config(card, weights, recipe, overrides)
    out = None if output_dir is None else Path(output_dir)
    with process_group(device, config.train.timeout_minutes) as (processes, own_device), contextlib.ExitStack() as own:
        is_main = processes.is_main
        folder = processes.broadcast(
            own.enter_context(results_folder(weights, card, config, out)) if is_main else Path()
        )
        console = _console(processes.is_main)

        def show(line: str) -> None:
            console.print(line, style="yellow")

        for line in lines:
            show(line)
        console.print(f"reading the data set {place_of(config.data)} to evaluate {weights}")
        runtime = model.start(own_device, precision)
        evaluator, metrics = evaluate_model(runtime, weights, config, folder, show, processes)
        console.print(metrics_table(metrics, evaluator.settings))
        if processes.is_main:  # it has the predictions of all processes
            diagnosis = quick_diagnosis(evaluator, config.model.image_size or runtime.image_size)
            if diagnosis is not None:
                show(diagnosis)
        if processes.is_main and isinstance(evaluator, CocoEvaluator):
            if pycocotools:
                console.print(comparison_line(evaluator))
            if save_predictions is not None:
                evaluator.save_results(full_path(save_predictions))
                console.print(f"results for COCO's server are in {save_predictions}")
        console.print(f"{count_of(len(evaluator), 'image')}; {', '.join(RESULTS)} and more are in {folder}")
    return metrics


def _console(is_main: bool) -> PlainConsole:
    """Where progress is printed: plain lines in files and notebooks, and nothing in other processes."""
    return PlainConsole(quiet=not is_main)


def _training_recipe(
    recipe: str | Path | DetectionConfig | ClassificationConfig | None,
    overrides: Sequence[str],
    device: str | None,
    resume: str | Path | None,
) -> tuple[DetectionConfig | ClassificationConfig, Path]:
    """The recipe of a training, and its file; of one that is chosen, a file with the name of the data set.

    Raises:
        ConfigError: no recipe is given and no run that has one, or the recipe cannot be used.
    """
    if recipe is not None:
        return _read(recipe, overrides)
    if resume is None or str(resume) == "auto":
        if not any(override.startswith("data") for override in overrides):
            raise ConfigError("no data set is given: add data.root=FOLDER, and a recipe such as d0 if you have one")
        console = _console(is_first_process())
        config = choose_recipe(overrides, device, console)
        return config, Path(f"{_data_name(config.data)}.yaml")
    config, file = recipe_of_run(Path(resume), overrides)
    moved = config.output_dir is not None and full_path(config.output_dir).resolve() != file.parent.resolve()
    if moved and not any(override.startswith("output_dir=") for override in overrides):
        config = config.model_copy(update={"output_dir": file.parent})
    return config, file


def _read(
    recipe: str | Path | DetectionConfig | ClassificationConfig, overrides: Sequence[str]
) -> tuple[DetectionConfig | ClassificationConfig, Path]:
    """A recipe with its overrides, and its file; without a file, one with the name of the model."""
    if isinstance(recipe, (str, Path)):
        return load_config(Path(recipe), list(overrides)), Path(recipe)
    return make_config(recipe.to_dict(), list(overrides), source="recipe"), Path(f"{recipe.model.name}.yaml")


def _data_name(data: DataConfig) -> str:
    """The name of the folder, file or address of a data set."""
    place = full_path(place_of(data)).absolute()
    return re.sub(r"[^\w.-]+", "-", place.stem if place.is_file() else place.name) or "data"


def _metrics_in(folder: Path) -> dict[str, float]:
    """The metrics of best.pt; empty if it was never evaluated."""
    path = folder / "metrics.json"
    metrics: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return metrics
