"""The manual: its commands and its Python run, its links, keys and paths exist, and it uses the terms of the field.

Data sets, checkpoints and pictures of the manual are small stand-ins; nothing is downloaded. Commands that need several
processes, object storage, a download or minutes of conversion are only parsed.
"""

import argparse
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
import yaml

import effdet
from effdet.cli import VERBS, main
from effdet.cli.recipes import read_recipe, recipe_path
from effdet.config import load_config, make_config
from effdet.config.schema import TASKS
from effdet.data.images import read_image
from effdet.data.letterbox import letterbox
from effdet.errors import ConfigError
from effdet.weights.zoo import ZOO, find_entry

REPOSITORY = Path(__file__).resolve().parent.parent
MANUAL = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = [*MANUAL, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"]
FILE_SUFFIXES = {"txt", "jsonl", "csv", "npz", "json", "yaml", "pt"}
OTHER_PROGRAMS = {"git", "cd", "tensorboard"}
CPU_VERBS = {"train", "eval", "predict", "benchmark", "plan", "replay", "doctor", "review"}
RECIPE_VERBS = {"train", "eval", "show-batch", "shards", "plan", "config", "anchors"}

# A training of one step on small images
SMALL = (
    *("train.max_steps=1", "train.batch_size=2", "train.accumulation_steps=1", "train.precision=fp32"),
    *("data.workers=0", "model.image_size=[128,128]", "model.weights=null"),
)
# Exit statuses besides 0: the step of the stand-in is Inf in any precision, and its random weights detect nothing
STATUSES = {"replay": {1}, "doctor": {0, 1}}
# The recipe and the classes of the checkpoints that the manual names, by the folder of their run
RUNS = {
    "d0": "configs/d0.yaml",
    "d2": "configs/d2.yaml",
    "mine": "configs/finetune.yaml",
    "flowers": "configs/classification/finetune.yaml",
}
PUBLIC_WEIGHTS = {"efficientnet_lite0": "runs/flowers/best.pt"}  # of commands, and what stands in for them
# Texts in the Python of the manual, and what is run in their place
PYTHON_STAND_INS = {
    'weights="coco"': "weights=None",
    'weights="imagenet"': "weights=None",
    '"data.root=/data/mine"': ", ".join(f'"{override}"' for override in ("data.root=data/mine", *SMALL)),
    'Path("/data/mine")': 'Path("data/mine")',
    ", 0, 1000, workers=2,": ", 0, 2, workers=0,",
}


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    """The code blocks of a page in a language; "" for commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)
    return [text for own, text in found if own == language]


def command_lines(page):
    """The commands of a page as lists of words."""
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"\s&&\s", line):
                words = shlex.split(command, comments=True)
                if words:
                    yield words[: words.index(">")] if ">" in words else words


def verb_and_arguments(words):
    """The verb of `effdet VERB`, `python tools/VERB.py` or `torchrun ... tools/VERB.py`, and what follows; or None."""
    if words[0] == "effdet":
        return words[1], words[2:]
    for number, word in enumerate(words):
        tool = re.fullmatch(r"tools/(\w+)\.py", word)
        if tool and words[0] in ("python", "torchrun"):
            return tool[1], words[number + 1 :]
    return None


COMMANDS = [(page, words) for page in PAGES for words in command_lines(page)]
EFFDET_COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)[:70]}")
    for page, words in COMMANDS
    if verb_and_arguments(words)
]


def needs_more_than_a_cpu(words):
    """Whether a command needs several processes, object storage, a download, or minutes of conversion."""
    verb, arguments = verb_and_arguments(words)
    remote = any(argument.startswith("data.url=") for argument in arguments)
    converted = verb == "export" and not {"litert", "int8"}.isdisjoint(arguments)
    fetched = verb == "weights" and arguments[0] in ("download", "convert")
    return words[0] == "torchrun" or remote or converted or fetched


RUNNABLE = [param for param in EFFDET_COMMANDS if not needs_more_than_a_cpu(param.values[0])]


# Commands


def test_the_manual_has_commands_for_every_verb_that_users_start_with():
    verbs = {verb_and_arguments(param.values[0])[0] for param in EFFDET_COMMANDS}
    assert verbs >= set(VERBS) - {"synthetic"}  # which `make demo` runs
    assert len(RUNNABLE) > 30


def test_every_line_of_a_block_of_commands_is_a_command():
    makefile, project = text_of(REPOSITORY / "Makefile"), text_of(REPOSITORY / "pyproject.toml")
    for page, words in COMMANDS:
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{page.name}: make {words[1]}"
        elif words[:2] == ["pip", "install"]:
            extra = re.fullmatch(r"\.(?:\[(\w+)\])?", words[3])
            assert words[2] == "-e"
            assert extra
            assert extra[1] is None or re.search(rf"^{extra[1]} = \[", project, re.MULTILINE), (
                f"{page.name}: {extra[1]}"
            )
        else:
            assert words[0] in OTHER_PROGRAMS or verb_and_arguments(words), f"{page.name}: {' '.join(words)}"


@pytest.mark.parametrize("words", EFFDET_COMMANDS)
def test_a_command_is_understood(words, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    verb, arguments = verb_and_arguments(words)
    assert verb in VERBS
    module = importlib.import_module(f"effdet.cli.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    args = parser.parse_intermixed_args(arguments)
    if verb in RECIPE_VERBS and recipe_path(args):
        config = read_recipe(args)
        assert not (config.model.weights and config.model.backbone_weights)
    for name in getattr(args, "names", ()) if getattr(args, "action", "") in ("info", "download") else ():
        assert find_entry(name)
    if getattr(args, "entry", None):
        assert find_entry(args.entry)


@pytest.fixture
def workspace(tmp_path, monkeypatch, tiny_data, shapes_data):
    """A working directory with the recipes, data sets and pictures that the manual names."""
    from effdet.data.synthetic import write_video

    monkeypatch.chdir(tmp_path)
    for name in ("configs", "tools"):
        Path(name).symlink_to(REPOSITORY / name)
    Path("data").mkdir()
    for name in ("coco", "mine"):
        Path("data", name).symlink_to(tiny_data)
    for name in ("flowers", "imagenet"):
        Path("data", name).symlink_to(shapes_data)
    shutil.copytree(tiny_data / "train2017", "photos")
    shutil.copytree(tiny_data / "val2017", "photos", dirs_exist_ok=True)
    for split in ("train", "val"):
        shutil.copy(tiny_data / "annotations" / f"instances_{split}2017.json", f"{split}.json")
    objects = json.loads(Path("val.json").read_text())["annotations"]
    Path("results.json").write_text(json.dumps([{**row, "score": 0.5} for row in objects]))
    pictures = sorted((tiny_data / "val2017").iterdir())
    for name in ("street.jpg", "a.jpg", "b.jpg", "c.jpg", "folder/1.jpg", "more/2.png"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(pictures[0], name)
    write_video(Path("clip.mp4"), 2, (64, 64), 0)
    return tmp_path


def classes_of(task, folder):
    if task == "classification":
        return tuple(sorted(path.name for path in (folder / "train").iterdir())), None
    categories = json.loads((folder / "annotations" / "instances_val2017.json").read_text())["categories"]
    return tuple(row["name"] for row in categories), tuple(row["id"] for row in categories)


def write_checkpoint(path, class_names=None):
    """A checkpoint of random weights for a path such as runs/d2/best.pt, whose detector finds objects everywhere."""
    from effdet.models import make_spec
    from effdet.weights.card import ModelCard
    from effdet.weights.checkpoint import save_checkpoint
    from effdet.weights.create import options_of

    recipe = RUNS[path.parent.name]
    folder = Path("data", "flowers" if "classification" in recipe else "coco").absolute()
    few = () if "classification" in recipe else ("postprocess.score_threshold=0.2", "postprocess.max_detections=50")
    config = load_config(recipe, [*SMALL, *few, f"data.root={folder}"])
    names, ids = classes_of(config.task, folder)
    if class_names is not None:
        names, ids = class_names, None
    model = make_spec(options_of(config.model)).build(len(names))
    if config.task == "detection":
        spread_scores(model)
    options = config.postprocess.model_dump() if config.task == "detection" else {}
    card = ModelCard(model.spec, names, ids or tuple(range(len(names))), options, config=config.to_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, model.state_dict(), card)


@torch.no_grad()
def spread_scores(model):
    """Changes the last layer of random weights so that scores for a.jpg spread around 0.5."""
    layer = model.class_head.predict.pointwise
    layer.bias.zero_()
    images = torch.from_numpy(letterbox(read_image(Path("a.jpg")), (128, 128), model.spec.fill_color, True, "pad")[0])
    logits = model.eval()(images.permute(2, 0, 1)[None]).class_logits.flatten()
    scale = 0.3 / logits.std()  # with a larger one, scores of other images would be 1.0
    layer.weight.mul_(scale)
    layer.bias.fill_(-logits.median() * scale)


def write_export(path):
    """An exported file such as runs/mine/best.onnx, and its checkpoint."""
    checkpoint = path.with_suffix(".pt")
    write_checkpoint(checkpoint)
    assert main(["export", "--weights", str(checkpoint), "--out", str(path)]) == 0


def write_analysis(folder):
    """The analysis of a run such as runs/mine."""
    made_up = runpy.run_path(str(REPOSITORY / "tests" / "report" / "analyses.py"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "analysis.json").write_text(json.dumps(made_up["detection"]()))


def write_debug_dump(path):
    """The debug dump of a step whose loss is Inf."""
    overrides = [*SMALL, "data.root=data/coco", "loss.box_weight=1e39", "output_dir=runs/failed"]
    assert main(["train", "configs/lite0.yaml", *overrides, "--device", "cpu"]) == 1
    shutil.copytree("runs/failed/debug-1", path)


def stand_in(words):
    """A command of the manual for the workspace: small, on the CPU, with its inputs made before."""
    verb, arguments = verb_and_arguments(words)
    arguments = [argument.replace("/data/", "data/") for argument in arguments]
    if verb == "predict" or verb == "eval":
        arguments = [PUBLIC_WEIGHTS.get(argument, argument) for argument in arguments]
    if verb in ("train", "show-batch", "shards", "plan") or (verb == "anchors" and "--weights" not in arguments):
        arguments += SMALL
    if verb == "eval" and "configs/d2.yaml" in arguments:
        arguments += ["model.image_size=[128,128]"]
    if verb == "benchmark":
        arguments += ["--runs", "1", "--warmup", "1", "--batch-size", "1"]
    if verb == "plan":
        arguments += ["model.name=efficientdet_lite0"]
    if verb == "review":
        run = Path(arguments[0])
        if run.parts[0] == "runs":
            write_checkpoint(run / "best.pt")
            config = load_config(RUNS[run.name], [*SMALL, "data.root=data/mine"])
            (run / "config.yaml").write_text(config.to_yaml())
        else:  # a recipe
            arguments += SMALL
        arguments = ["2" if argument == "5" else argument for argument in arguments]  # folds
    if "data.format=shards" in arguments:
        arguments += ["model.name=efficientdet_lite0"]
        shards = ["shards", "configs/d0.yaml", "data.root=data/coco", "--out", "data/coco-shards"]
        assert main(shards) == 0
    if "--resume" in arguments and arguments[-1] != "auto" and "auto" not in arguments:
        place = arguments.index("--resume")
        first = [*arguments[:place], *arguments[place + 2 :], f"output_dir={arguments[place + 1]}"]
        if not any(argument.startswith("data.root=") for argument in first):  # by the recipe of the run
            first = ["configs/d2.yaml", "data.root=data/coco", *first]
        assert main(["train", *first, "--device", "cpu"]) == 0
    for argument in arguments:
        path = Path(argument.rpartition("=")[2])
        if path.suffix == ".pt" and path.parts[0] == "runs":
            write_checkpoint(path)
        if path.suffix == ".onnx" and path.parts[0] == "runs":
            write_export(path)
        if path.name.startswith("debug-"):
            write_debug_dump(path)
        if verb == "report" and path.parts[0] == "runs":
            write_analysis(path)
    device = ["--device", "cpu"] if verb in CPU_VERBS and "--annotations" not in arguments else []
    return [verb, *arguments, *device]


@pytest.mark.parametrize("words", RUNNABLE)
def test_a_command_runs(words, workspace, capsys):
    arguments = stand_in(words)
    capsys.readouterr()
    status = main(arguments)
    printed = capsys.readouterr()
    assert status in STATUSES.get(arguments[0], {0}), printed.err
    assert printed.out


# Python


def python_of(page):
    return "\n".join(blocks(page, "python"))


PYTHON_PAGES = [page for page in PAGES if python_of(page)]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, workspace, monkeypatch):
    for name, attribute in (("pandas", "DataFrame"), ("supervision", "Detections")):
        if importlib.util.find_spec(name) is None:
            module = importlib.util.module_from_spec(ModuleSpec(name, None))
            setattr(module, attribute, dict)
            monkeypatch.setitem(sys.modules, name, module)
    for name in RUNS:
        write_checkpoint(Path("runs", name, "best.pt"), ("car", "dog", "person") if name != "flowers" else None)
    code = python_of(page)
    for text, replacement in PYTHON_STAND_INS.items():
        code = code.replace(text, replacement)
    exec(compile(code, page.name, "exec"), {"__name__": "manual"})


def test_every_stand_in_stands_for_something():
    code = "".join(python_of(page) for page in PAGES)
    assert [text for text in PYTHON_STAND_INS if text not in code] == []


def test_the_training_loop_of_the_manual_has_twelve_lines():
    (loop,) = [text for text in blocks(REPOSITORY / "docs" / "python.md", "python") if "DetectionLoss()" in text]
    lines = [line for line in loop.splitlines() if line and "import" not in line]
    assert len(lines) <= 12


@pytest.mark.slow
def test_the_python_of_the_manual_passes_mypy(tmp_path):
    files = []
    for page in PYTHON_PAGES:
        files.append(tmp_path / f"manual_{page.stem.lower()}.py")
        files[-1].write_text(python_of(page), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, files)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


# Recipes


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.stem)
def test_the_recipes_of_a_page_are_valid(page, tmp_path):
    for number, block in enumerate(blocks(page, "yaml")):
        recipe = yaml.safe_load(block)
        if recipe.get("base", "").endswith(".yaml"):
            recipe["base"] = str(REPOSITORY / "configs" / recipe["base"])
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        assert load_config(path)


def test_keys_in_the_text_exist_and_accept_the_values_given():
    sections = {name for task in TASKS.values() for name in task.model_fields}
    checked = 0
    for page in PAGES:
        for key, value in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:[=:] ?([^`]+))?`", text_of(page)):
            if key.partition(".")[0] in sections and key.rpartition(".")[2] not in FILE_SUFFIXES:
                assert accepted(key, value), f"{page.name}: {key} {value}"
                checked += 1
    assert checked > 60


def accepted(key, value):
    """Whether a recipe of one of the tasks may have a key, and a value of it if one is given."""
    for task, config in TASKS.items():
        if not value:
            section = config
            for name in key.split("."):
                section = section_of(section).get(name)
                if section is None:
                    break
            else:
                return True
            continue
        overrides = [f"{key}={value}", *(["loss.iou=giou"] if key == "loss.box_weight" else [])]
        try:
            make_config({"task": task}, overrides)
        except ConfigError:
            continue
        return True
    return False


def section_of(annotation):
    """The keys of a section, which may be optional, with their types; none of another type."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if hasattr(candidate, "model_fields"):
            return {name: field.annotation for name, field in candidate.model_fields.items()}
    return {}


def test_the_page_of_recipe_keys_is_up_to_date():
    page = runpy.run_path(str(REPOSITORY / "tests" / "recipes_page.py"))
    assert text_of(REPOSITORY / "docs" / "recipes.md") == page["page"](), "run python tests/recipes_page.py"


# Links, paths and words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_of_the_repository_that_are_named_exist(page):
    for path in re.findall(r"`((?:effdet|configs|tests|docs|tools|\.ci)/[\w./-]*)`", text_of(page)):
        assert (REPOSITORY / path).exists(), path
        assert path.endswith("/") == (REPOSITORY / path).is_dir(), path


def test_tables_named_in_the_map_exist():
    for name, path in re.findall(r"table `([A-Z]+)` of `([\w./]+)`", text_of(REPOSITORY / "CONTRIBUTING.md")):
        assert re.search(rf"^{name}\b", text_of(REPOSITORY / path), re.MULTILINE), f"{path}: {name}"


def test_the_map_names_every_module():
    (order,) = [text for text in blocks(REPOSITORY / "CONTRIBUTING.md", "text") if "->" in text]
    named = re.split(r"[\s,]+(?:->\s*)?|\s*->\s*", order.strip())
    package = REPOSITORY / "effdet"
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(filter(None, named)) == modules - {"__init__", "__main__"}


def test_the_number_of_public_weights_is_that_of_the_list():
    numbers = {
        int(number) for page in PAGES for number in re.findall(r"(\d+) (?:public weights )?files", text_of(page))
    }
    assert numbers == {len(ZOO)}


TERMS = (
    *("NaN", "gradient accumulation", "micro-batch", "mixed precision", "early stopping", "DDP", "SyncBatchNorm"),
    *("confidence threshold", "NMS", "EMA", "backbone", "checkpoint", "COCO AP", "IoU threshold"),
)
VAGUE = (
    *(
        r"trunk\w*",
        r"figures?",
        r"tells?",
        r"told",
        r"shares?",
        r"spread",
        r"pieces?",
        r"parts?",
        r"(?<!gradient )norms",
    ),
    *("goes backward", "falling", "if need be", "weight average", "not finite", "bundle", "rooms?", "taken", "mended?"),
)


def test_the_manual_uses_the_terms_of_the_field():
    manual = "\n".join(map(text_of, MANUAL)).lower()
    assert [term for term in TERMS if term.lower() not in manual] == []


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.stem)
def test_the_manual_has_no_vague_words(page):
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(rf"\b(?:{'|'.join(VAGUE)})\b", prose, re.IGNORECASE) == []


def test_the_public_names_of_the_python_page_are_public():
    for name in re.findall(r"(?<!from )\beffdet\.([A-Za-z_]+)\b(?!\.)", python_of(REPOSITORY / "docs" / "python.md")):
        assert name in effdet.__all__, name
