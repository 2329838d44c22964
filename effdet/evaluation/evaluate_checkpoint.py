"""Evaluates a checkpoint or an exported file: by which recipe, whether it fits, and which folder gets the results.

`effdet.evaluate` and `effdet eval` are made of these functions. Running the model is done in `evaluate.py`.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from effdet.config import ClassificationConfig, Config, DataConfig, DetectionConfig, load_config, make_config
from effdet.data.damage import all_damaged_named, check_sizes
from effdet.data.formats import read_table
from effdet.data.label_map import LabelMap
from effdet.data.validation_list import with_saved_list
from effdet.distributed import SINGLE, Processes
from effdet.errors import ConfigError
from effdet.evaluation.evaluate import Evaluator, evaluate
from effdet.evaluation.run_report import write_run_report
from effdet.files import full_path, write_text
from effdet.folders import new_folder, owned_folder
from effdet.plain_data import parse_yaml
from effdet.runtimes.runtime import Runtime
from effdet.weights.card import ModelCard, recipe_of

RESULTS = ("report.html", "metrics.json", "predictions.json")
# Keys with which the recipe must describe the model of the checkpoint, as far as it gives them.
MODEL_KEYS = (
    *("model.name", "model.backbone", "model.num_classes", "model.phi", "model.width", "model.depth"),
    *("model.padding", "model.anchor_scale", "model.anchor_aspects", "model.antialias"),
    "model.letterbox",
)
# Keys that change an evaluation, with all below them.
USED_KEYS = (
    *("task", "model.image_size", "data.format", "data.root", "data.url", "data.train", "data.val"),
    *("data.workers", "data.classes", "data.rename", "data.crowd_as_objects", "data.value_range"),
    *("eval.batch_size", "postprocess", "train.timeout_minutes"),
)


def evaluation_config(
    card: ModelCard,
    weights: str | Path,
    recipe: str | Path | DetectionConfig | ClassificationConfig | None = None,
    overrides: Sequence[str] = (),
) -> tuple[DetectionConfig | ClassificationConfig, list[str]]:
    """The recipe by which a checkpoint is evaluated, and lines to show about it.

    Args:
        card: of the checkpoint.
        weights: the checkpoint's file or name, for messages.
        recipe: a recipe or its file; None for the recipe stored in the checkpoint, or the defaults for public weights.
        overrides: `section.key=value`.

    Raises:
        ConfigError: the recipe cannot be used, describes another model than the checkpoint's, or is that of the
            checkpoint and names an address, see `recipe_of`.
    """
    source = None
    given = [key for override in overrides for key in _override_keys(override)]
    if recipe is None:
        stored = recipe_of(card, weights, given) or {"task": card.task, "model": {"name": card.spec.name}}
        config = make_config(_without_rule(stored, overrides), overrides, source=str(weights))
        config = with_saved_list(config, full_path(weights).parent)
    elif isinstance(recipe, (str, Path)):
        source, config = str(recipe), load_config(recipe, overrides)
    else:
        source, config = "recipe", make_config(recipe.to_dict(), overrides, source="recipe")
    if config.task != card.task:
        raise ConfigError(
            f"{source or 'command line'}: the recipe is for {config.task}, but {weights} is for {card.task}; "
            "give a recipe of that task"
        )
    _check_model(config, card, weights, source, given)
    lines = []
    unused = [key for key in given if not _is_below(key, (*USED_KEYS, *MODEL_KEYS))]
    if unused:
        lines.append(f"without effect in an evaluation: {', '.join(unused)}")
    size, trained = config.model.image_size or card.spec.image_size, card.spec.image_size
    if size != trained:
        lines.append(
            f"model.image_size: evaluating at {_pixels(size)} pixels; {weights} was trained at {_pixels(trained)}"
        )
    return config, lines


def _without_rule(stored: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """A stored recipe without its rule for validation images where an override chooses other ones."""
    given = {key for override in overrides for key in _override_keys(override)}
    val = stored.get("data", {}).get("val")
    if not val or not given & {f"data.val.{key}" for key in val} or "data.val" in given:
        return stored
    return {**stored, "data": {**stored["data"], "val": {**val, "file_list": None, "fraction": None}}}


@contextlib.contextmanager
def results_folder(weights: str | Path, card: ModelCard, config: Config, out: Path | None = None) -> Iterator[Path]:
    """The folder for the results of an evaluation, which no other process owns; it never holds those of another one.

    Without `out` it is beside the checkpoint and named after it: runs/x/last.pt gives runs/x/eval-last. On other data
    than those of the checkpoint's own recipe the name of the data set is added: runs/x/eval-last-coco. An exported file
    keeps its suffix: runs/x/best.onnx gives runs/x/eval-best.onnx. Public weights such as efficientdet_d0 give
    runs/eval-efficientdet_d0-coco. A name that is taken gets a number: eval-last-2.

    Raises:
        ConfigError: see `unused_folder`, or it cannot be made.
    """
    if out is not None:
        with unused_folder(out) as folder:
            yield folder
        return
    file = full_path(weights)
    parent, stem = Path("runs"), str(weights)
    if file.is_file():
        parent, stem = file.parent, file.stem if file.suffix in (".pt", ".pth") else file.name
    name = f"eval-{stem}"
    if not card.config or _data_place(make_config(card.config).data) != _data_place(config.data):
        name += f"-{_data_name(config.data)}"
    with new_folder(parent / re.sub(r"[^\w.-]+", "-", name)) as folder, owned_folder(folder, made=True):
        yield folder


@contextlib.contextmanager
def unused_folder(out: Path) -> Iterator[Path]:
    """A folder for results, given by a user, that holds none so far and that no other process owns.

    Raises:
        ConfigError: it holds the results of an evaluation or of a training, another process owns it, or it cannot be
            made.
    """
    out = full_path(out)
    with owned_folder(out):
        taken = [name for name in RESULTS if (out / name).exists()]
        if taken:
            raise ConfigError(
                f"{out}: holds the {taken[0]} of another evaluation or of a training; choose another folder with --out"
            )
        yield out


def evaluate_model(
    runtime: Runtime,
    weights: str | Path,
    config: DetectionConfig | ClassificationConfig,
    folder: Path,
    show: Callable[[str], None],
    processes: Processes = SINGLE,
) -> tuple[Evaluator, dict[str, float]]:
    """Evaluates a model on the validation split of a recipe; the evaluator, and its metrics in every process.

    The main process writes metrics.json, predictions.json, analysis.json, confusion.csv and confusion.png, the recipe
    as config.yaml, report.html, and for detectors truth.json if the data set is not in COCO's format.

    Args:
        runtime: what runs the model.
        weights: name of the weights, for the report.
        config: see `evaluation_config`.
        folder: see `results_folder`; it is created if missing.
        show: shows a line about what was repaired or left out of the data; the main process calls it.
        processes: those that evaluate together.

    Raises:
        ConfigError: the folder cannot be written.
        DataError: the data cannot be read, or has other classes than the model.
        WeightsError: an output of the model is NaN or Inf.
    """
    labels = LabelMap(runtime.card.class_names, runtime.card.category_ids)
    table = read_table(config.data, "val", labels)
    check_sizes([table], config.data.root)
    if processes.is_main:
        for note in table.notes():
            show(note)
        check_writable(folder)
    with all_damaged_named([table], config.data.root, folder, show):
        evaluator = evaluate(runtime, table, config, processes)
    metrics = processes.broadcast(evaluator.metrics() if processes.is_main else {})
    if processes.is_main:
        for note in evaluator.notes(metrics):
            show(note)
        evaluator.write(folder, metrics, str(weights))
        write_text(folder / "config.yaml", config.to_yaml())
        write_run_report(folder, table)
    return evaluator, metrics


def _check_model(
    config: Config, card: ModelCard, weights: str | Path, recipe: str | None, given: Sequence[str]
) -> None:
    """Does nothing if the recipe's model is the checkpoint's, as far as `recipe` or the `given` overrides describe it.

    Raises:
        ConfigError: it is not.
    """
    actual, wanted = _model_values(card), config.model
    for key in MODEL_KEYS:
        name = key.removeprefix("model.")
        on_command_line = _is_below(key, given)
        if name not in wanted.model_fields_set or (recipe is None and not on_command_line):
            continue
        value = getattr(wanted, name)
        if value is not None and value != actual.get(name):
            advice = (
                f"leave {key} out; of the model only the input size can be changed, by model.image_size=[H,W]"
                if on_command_line
                else "give the recipe that the weights were trained by, or leave the recipe out"
            )
            raise ConfigError(
                f"{'command line' if on_command_line else recipe}: {key} is {_plain(value)}, but {weights} has "
                f"{_plain(actual.get(name))}; {advice}"
            )


def _model_values(card: ModelCard) -> dict[str, Any]:
    """The model of a checkpoint in the keys of `model.*`."""
    own = vars(card.spec)
    backbone = own.get("backbone", card.spec)
    stored = card.config.get("model", {})
    return {
        "phi": stored.get("phi"),
        **vars(backbone),
        **own,
        "backbone": backbone.name,
        "num_classes": len(card.class_names),
    }


def _override_keys(override: str) -> list[str]:
    """The dotted keys that an override gives, such as model.name for both model.name=x and model={name: x}."""
    key, _, text = override.partition("=")
    return _dotted(key, parse_yaml(text)) if text.lstrip().startswith("{") else [key]


def _dotted(key: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        return [key]
    return [dotted for name, inner in value.items() for dotted in _dotted(f"{key}.{name}", inner)]


def _is_below(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted key is one of `prefixes` or inside one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _data_place(data: DataConfig) -> tuple[Any, ...]:
    """What tells where the validation images are."""
    return data.format, data.root, data.url, data.val


def _data_name(data: DataConfig) -> str:
    """A short name of the validation data: of the folder, address or file that it is in, and of its split if given."""
    val = data.val
    place = data.url or data.root or (val and (val.annotations or val.images)) or "data"
    name = full_path(str(place)).absolute().name.removesuffix(".json").removesuffix(".csv")
    return f"{name}-{Path(val.split).stem}" if val and val.split else name


def check_writable(folder: Path) -> None:
    """Makes the folder and writes to it, so that a fault shows before the evaluation and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another folder with --out") from None


def _plain(value: Any) -> str:
    """A value as a recipe spells it."""
    return yaml.safe_dump(_lists(value), default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
