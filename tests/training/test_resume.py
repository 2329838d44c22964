"""A run that stops, in whatever way, continues to the same end: weights, optimizer, random numbers and logs."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from effdet.cli import main
from effdet.config import ClassificationConfig, load_config, make_config
from effdet.errors import WeightsError
from effdet.evaluation.coco import CocoEvaluator
from effdet.training.engine import train
from effdet.training.resume import data_changes, differences, newest_state, resume
from effdet.training.setup import set_up

pytestmark = pytest.mark.usefixtures("no_pictures")

QUIET = Console(quiet=True)
TIMES = ("seconds", "images_per_second", "data_wait")
EVERY_STEP = "train.save_every_minutes=0.000001"


class AtRecord(Console):
    """A terminal that does something when the record of a step is printed."""

    def __init__(self, step, action):
        super().__init__(quiet=True)
        self.step, self.action = step, action

    def print(self, *objects, **options):
        if objects and str(objects[0]).startswith(f"step {self.step} "):
            self.action()


def printed_command(printed):
    """The arguments of the command with which a run says it is continued."""
    (command,) = re.findall(r"continue with: effdet (.*)", printed)
    return shlex.split(command)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def send_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def start(recipe, folder, *overrides):
    """A run before its first step, and its state."""
    return set_up(load_config(recipe, overrides), folder, "cpu", QUIET)


def records(folder):
    """Lines of the log without times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def saved(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


def assert_equal(first, second, name="last.pt"):
    """That two contents of checkpoints are equal to the last bit, apart from time and folder."""
    assert type(first) is type(second), name
    if isinstance(first, dict):
        assert first.keys() == second.keys(), name
        for key in first.keys() - {"seconds", "output_dir"}:
            assert_equal(first[key], second[key], f"{name}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), name
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{name}[{number}]")
    else:
        same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
        assert same, name


def assert_same_run(folder, other):
    """All but the recipe, which says how the run was interrupted, and times."""
    assert records(folder) == records(other)
    first, second = saved(folder), saved(other)
    assert_equal(first["model"], second["model"])
    assert_equal(first["training"], second["training"])
    tables = [(run / "log.csv").read_text().splitlines() for run in (folder, other)]
    assert [len(table) for table in tables] == [len(records(folder)) + 1] * 2


# Ctrl-C, SIGTERM, time limit, kill


@pytest.mark.parametrize(("step", "workers"), [(2, 0), (5, 2)])
def test_a_killed_run_continues_to_the_same_end(tiny_run, tiny_recipe, tmp_path, step, workers):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", "import sys; from effdet.cli import main; sys.exit(main(sys.argv[1:]))", "train"]
    arguments = [str(tiny_recipe), f"output_dir={folder}", EVERY_STEP, f"data.workers={workers}", "--device", "cpu"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        log = folder / "log.jsonl"
        if log.exists() and f'"step": {step},' in log.read_text():
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # as a kill in the middle of writing leaves it
    resumed = ["train", str(tiny_recipe), EVERY_STEP, f"data.workers={workers}", "--resume", str(folder)]
    assert main([*resumed, "--device", "cpu"]) == 0
    assert_same_run(folder, tiny_run)


def test_ctrl_c_at_any_time_saves_a_state_that_continues_the_same_way(tiny_run, tiny_recipe, tmp_path, capsys):
    folder = tmp_path / "run"

    def press_after_first_record():
        for _ in range(6000):
            if (folder / "log.jsonl").exists():
                press_ctrl_c()
                return
            time.sleep(0.01)

    threading.Thread(target=press_after_first_record, daemon=True).start()
    assert main(["train", str(tiny_recipe), f"output_dir={folder}", "--device", "cpu"]) == 130
    stopped_at = saved(folder)["training"]["step"]
    assert 1 <= stopped_at < 6
    printed = capsys.readouterr().out
    assert f"interrupted after step {stopped_at} of 6; trained " in printed
    assert main(printed_command(printed)) == 0
    assert f"resumed from {folder / 'last.pt'} after step {stopped_at}" in capsys.readouterr().out
    assert_same_run(folder, tiny_run)


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_stopped_within_or_at_the_end_of_an_epoch_logs_the_same(tiny_run, tiny_recipe, tmp_path, step):
    config = load_config(tiny_recipe)
    assert train(config, tmp_path, "cpu", None, AtRecord(step, press_ctrl_c)) == "interrupted"
    assert train(config, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert_same_run(tmp_path, tiny_run)


def test_a_run_that_logs_every_few_steps_and_is_stopped_logs_the_same(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe, ["train.log_every=4"])
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert train(config, whole, "cpu", None, QUIET) == "finished"
    assert train(config, resumed, "cpu", None, AtRecord(4, press_ctrl_c)) == "interrupted"
    assert train(config, resumed, "cpu", resumed, QUIET) == "finished"
    assert_same_run(resumed, whole)


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_stopped_in_a_stage_continues_to_the_same_end(staged_recipe, staged_run, tmp_path, step):
    config = load_config(staged_recipe)
    assert train(config, tmp_path, "cpu", None, AtRecord(step, press_ctrl_c)) == "interrupted"
    assert saved(tmp_path)["training"]["step"] == step
    torch.manual_seed(99)  # as in another process
    assert train(config, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert records(tmp_path) == records(staged_run)
    for name in ("last.pt", "best.pt"):
        assert_equal(saved(tmp_path, name), saved(staged_run, name), name)
    for name in ("metrics.json", "predictions.json", "confusion.csv"):
        assert (tmp_path / name).read_text() == (staged_run / name).read_text()


def test_sigterm_saves_and_has_an_exit_status_of_its_own(tiny_recipe, tmp_path, monkeypatch):
    config = load_config(tiny_recipe)
    assert train(config, tmp_path, "cpu", None, AtRecord(2, send_sigterm)) == "terminated"
    assert saved(tmp_path)["training"]["step"] == 2
    monkeypatch.setattr("effdet.training.engine.train", lambda *given: "terminated")
    assert main(["train", str(tiny_recipe), f"output_dir={tmp_path / 'other'}"]) == 143


def test_the_time_limit_saves_and_has_an_exit_status_of_its_own(tiny_run, tiny_recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    recipe = ["train", str(tiny_recipe), "--device", "cpu"]
    assert main([*recipe, f"output_dir={folder}", "train.max_hours=1e-9"]) == 75
    printed = capsys.readouterr().out
    assert "out of time after step 1 of 6; " in printed
    assert saved(folder)["training"]["step"] == 1
    assert main([*printed_command(printed), "train.max_hours=null"]) == 0
    assert_same_run(folder, tiny_run)


def test_auto_resumes_the_newest_run_or_starts_one(tiny_run, tiny_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = ["train", str(tiny_recipe), "--device", "cpu", "--resume", "auto"]
    assert main([*recipe, "train.max_hours=1e-9"]) == 75
    assert "resumed" not in capsys.readouterr().out
    assert main(recipe) == 0
    assert "resumed from runs/tiny/last.pt after step 1" in capsys.readouterr().out
    assert_same_run(tmp_path / "runs/tiny", tiny_run)


def test_a_second_ctrl_c_ends_at_once_and_says_how_to_continue(tiny_run, tiny_recipe, tmp_path, capsys, monkeypatch):
    def press_twice(run, state, meter):
        press_ctrl_c()
        press_ctrl_c()

    with monkeypatch.context() as patch:
        patch.setattr("effdet.training.engine.log_steps", press_twice)
        recipe = ["train", str(tiny_recipe), f"output_dir={tmp_path}", EVERY_STEP, "train.log_every=2"]
        assert main([*recipe, "--device", "cpu"]) == 130
    printed = capsys.readouterr().out
    assert f"saved after step 1; continue with: effdet train --resume {tmp_path}\n" in printed
    assert main([*printed_command(printed), "train.log_every=1"]) == 0
    assert_equal(saved(tmp_path)["model"], saved(tiny_run)["model"])


def test_a_run_needs_no_recipe_to_be_extended(tiny_recipe, tmp_path, capsys):
    folder = tmp_path / "a run's folder"
    assert main(["train", str(tiny_recipe), f"output_dir={folder}", "train.max_steps=2", "--device", "cpu"]) == 0
    moved = folder.rename(tmp_path / "moved")
    assert main(["train", "--resume", str(moved)]) == 0
    printed = capsys.readouterr().out
    assert "nothing is left to do: 2 of 2 steps are done\n" in printed
    (command,) = re.findall("train longer with: effdet (.*)", printed)
    assert shlex.split(command) == ["train", "--resume", str(moved), "train.max_steps=4"]
    assert main(shlex.split(command)) == 0
    assert saved(moved)["training"]["step"] == 4
    assert main(["train", "--resume", str(moved / "last.pt"), "train.max_steps=5"]) == 0
    assert saved(moved)["training"]["step"] == 5
    assert main(["train", "--resume", str(moved), "model.name=efficientdet_lite1"]) == 1
    assert "is of an efficientdet_lite0 with" in capsys.readouterr().err


# Evaluations that are due


def test_a_skipped_evaluation_is_made_after_the_resume(tiny_run, tiny_recipe, tmp_path):
    config = load_config(tiny_recipe)
    assert train(config, tmp_path, "cpu", None, AtRecord(3, press_ctrl_c)) == "interrupted"
    assert saved(tmp_path)["training"]["evaluation_due"]
    assert [line["step"] for line in records(tmp_path) if "AP" in line] == []
    assert train(config, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert_same_run(tmp_path, tiny_run)


@pytest.mark.parametrize("killed_in", ["metrics", "write"])
def test_an_evaluation_in_which_a_run_was_killed_is_made_again(tiny_run, tiny_recipe, tmp_path, monkeypatch, killed_in):
    def kill(*given):
        raise SystemExit("killed")

    config = load_config(tiny_recipe)
    with monkeypatch.context() as patch:
        patch.setattr(CocoEvaluator, killed_in, kill)  # before and after its record is logged
        with pytest.raises(SystemExit):
            train(config, tmp_path, "cpu", None, QUIET)
    assert saved(tmp_path)["training"]["step"] == 3
    assert train(config, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert_same_run(tmp_path, tiny_run)


def test_a_skipped_evaluation_is_not_made_if_the_recipe_has_none_any_more(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe)
    assert train(config, tmp_path, "cpu", None, AtRecord(3, press_ctrl_c)) == "interrupted"
    assert train(load_config(tiny_recipe, ["data.val=null"]), tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert not [line for line in records(tmp_path) if "AP" in line]


# Damaged files and full disks


@pytest.mark.parametrize("given", ["", "last.pt"])
def test_the_previous_checkpoint_is_used_if_the_last_one_is_damaged(tiny_run, tiny_recipe, tmp_path, given):
    config = load_config(tiny_recipe, [EVERY_STEP])
    assert train(config, tmp_path, "cpu", None, AtRecord(4, press_ctrl_c)) == "interrupted"
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:10_000])
    assert saved(tmp_path, "previous.pt")["training"]["step"] == 3
    assert train(config, tmp_path, "cpu", tmp_path / given, QUIET) == "finished"
    assert_same_run(tmp_path, tiny_run)


def test_a_damaged_checkpoint_without_a_previous_one_is_refused(tiny_recipe, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(WeightsError, match=r"last\.pt: not a weights file, or damaged"):
        train(load_config(tiny_recipe), tmp_path, "cpu", tmp_path, QUIET)


def test_the_newest_state_is_that_of_last_pt_unless_another_file_is_named(tiny_run, tmp_path):
    assert newest_state(tiny_run, QUIET)[0] == newest_state(tiny_run / "last.pt", QUIET)[0] == tiny_run / "last.pt"
    (tmp_path / "previous.pt").write_bytes((tiny_run / "previous.pt").read_bytes())
    assert newest_state(tmp_path, QUIET)[0] == tmp_path / "previous.pt"
    with pytest.raises(WeightsError, match=r"copy\.pt: no such weights file"):
        newest_state(tmp_path / "copy.pt", QUIET)


def test_a_full_disk_leaves_the_old_checkpoint(tiny_recipe, tmp_path, monkeypatch):
    whole_save, saves = torch.save, []

    def save(*given):
        saves.append(given)
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole_save(*given)

    monkeypatch.setattr(torch, "save", save)
    printed = []
    console = AtRecord(0, None)
    monkeypatch.setattr(console, "print", lambda *objects, **options: printed.append(str(objects[0])))
    with pytest.raises(WeightsError, match="No space left on device"):
        train(load_config(tiny_recipe, [EVERY_STEP]), tmp_path, "cpu", None, console)
    assert saved(tmp_path)["training"]["step"] == 2
    assert not (tmp_path / "next.pt").exists()
    assert "saved after step 2; fix the cause below, then continue with: effdet train" in " ".join(printed)


# Another recipe


def test_resuming_a_finished_run_changes_nothing(tiny_run, tiny_recipe, tmp_path):
    (tmp_path / "last.pt").write_bytes((tiny_run / "last.pt").read_bytes())
    assert train(load_config(tiny_recipe), tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert not (tmp_path / "log.jsonl").exists()
    assert_equal(saved(tmp_path)["model"], saved(tiny_run)["model"])


def test_epochs_may_be_added(tiny_run, tiny_recipe, tmp_path):
    (tmp_path / "last.pt").write_bytes((tiny_run / "last.pt").read_bytes())
    assert train(load_config(tiny_recipe, ["train.epochs=3"]), tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert saved(tmp_path)["training"]["step"] == 9


def test_a_resumed_run_uses_the_hyperparameters_of_the_current_recipe(tiny_run, tiny_recipe, tmp_path):
    run, state = start(tiny_recipe, tmp_path, "optim.weight_decay=0.5")
    resume(tiny_run, run, state)
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.5, 0.0]
    assert state.optimizer.state_dict()["state"]  # its momenta are those of the run


def test_a_run_continues_in_float16(tiny_run, tiny_recipe, tmp_path):
    run, state = start(tiny_recipe, tmp_path, "train.precision=fp16")
    resume(tiny_run, run, state)
    assert state.scaler.get_scale() == 65536


def test_the_ema_continues_too(staged_recipe, staged_run, tmp_path):
    run, state = start(staged_recipe, tmp_path)
    resume(staged_run, run, state)
    assert_equal(dict(state.ema.model.state_dict()), dict(saved(staged_run)["model"]))
    assert not torch.equal(state.ema.model.classifier.weight, state.model.classifier.weight)


def test_the_moving_average_of_the_positives_continues_too(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe, ["loss.positives_momentum=0.9", "train.max_hours=1e-9"])
    assert train(config, tmp_path, "cpu", None, QUIET) == "out of time"
    run, state = set_up(config, tmp_path, "cpu", QUIET)
    assert state.criterion.positives.tolist() == [-1, -1]
    resume(tmp_path, run, state)
    assert_equal(dict(state.criterion.state_dict()), dict(saved(tmp_path)["training"]["loss"]))
    assert min(state.criterion.positives.tolist()) > 0


def test_steps_of_another_loss_are_left_out_of_the_next_record(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe, ["train.log_every=4", "train.max_hours=1e-9", "data.val=null"])
    assert train(config, tmp_path, "cpu", None, QUIET) == "out of time"
    other = load_config(tiny_recipe, ["train.log_every=4", "loss.iou=giou", "data.val=null"])
    assert train(other, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    first, *_ = records(tmp_path)
    assert first["step"] == 4
    assert first["loss"] == pytest.approx(first["class_loss"] + 50 * first["box_loss"] + first["iou_loss"])


# What cannot be resumed


def test_weights_without_a_training_state_are_not_resumed(tiny_run, tiny_recipe, tmp_path):
    run, state = start(tiny_recipe, tmp_path)
    with pytest.raises(WeightsError, match=r"best\.pt: has no training state; resume from the last\.pt of a run"):
        resume(tiny_run / "best.pt", run, state)


@pytest.mark.parametrize(
    "change", ["model.name=efficientdet_lite1", "optim.name=adamw", "train.freeze=[backbone]", "train.batch_size=2"]
)
def test_a_detector_of_another_recipe_is_not_resumed(tiny_run, tiny_recipe, tmp_path, change):
    run, state = start(tiny_recipe, tmp_path, change)
    with pytest.raises(WeightsError, match=r"last\.pt: .*; resume with the recipe of the run"):
        resume(tiny_run, run, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.name=efficientnet_lite1", "is of an efficientnet_lite0 with classes disc, frame, stripes, but the "),
        ("model.dropout=0.5", r"is of an efficientnet_lite0 with dropout 0\.2 and now 0\.5; resume with"),
        ("model.image_size=[96, 64]", r"with image_size \(64, 64\) and now \(96, 64\); resume with"),
        ("model.width=0.5", r"with width 1\.0 and now 0\.5; resume with"),
        ("optim.name=adamw", "optim.name sgd and now adamw"),
        ("train.freeze=[blocks]", r"is of a run with train\.freeze \[\] and now \['blocks'\]"),
    ],
)
def test_a_classifier_of_another_recipe_is_not_resumed(shapes_run, shapes_recipe, tmp_path, change, message):
    run, state = start(shapes_recipe, tmp_path, change)
    with pytest.raises(WeightsError, match=rf"last\.pt: .*{message}") as caught:
        resume(shapes_run, run, state)
    assert str(caught.value).endswith("resume with the recipe of the run")
    assert "\n" not in str(caught.value)


def test_a_run_of_other_classes_is_not_resumed(shapes_run, shapes_recipe, tmp_path):
    run, state = start(shapes_recipe, tmp_path)
    other = replace(run, card=replace(run.card, class_names=("disc", "frame", "dots")))
    with pytest.raises(WeightsError, match=r"with classes disc, frame, stripes, but the recipe makes .* frame, dots;"):
        resume(shapes_run, other, state)


def test_a_detector_is_not_resumed_as_a_classifier(tiny_run, shapes_recipe, tmp_path):
    run, state = start(shapes_recipe, tmp_path)
    with pytest.raises(WeightsError, match=r"is of an efficientdet_lite0 with .* makes an efficientnet_lite0 with"):
        resume(tiny_run, run, state)


# Changes that are printed


def recipe(*overrides, task="detection"):
    return make_config({"task": task}, overrides).to_dict()


def test_equal_recipes_do_not_differ():
    assert differences(recipe(), recipe()) == []
    assert differences(recipe("loss.class_weights={a: 2}"), recipe("loss.class_weights={a: 2}")) == []


def test_keys_that_matter_have_a_line_each_and_the_others_share_one():
    now = recipe("optim.learning_rate=0.1", "train.epochs=20", "augment.scale_jitter=null", "data.workers=0")
    assert differences(recipe(), now) == [
        "augment.scale_jitter: [0.1, 2.0] -> null",
        "optim.learning_rate: 0.08 -> 0.1",
        "changed too: data.workers: 2 -> 0, train.epochs: 300 -> 20",
    ]


def test_minor_keys_alone_are_one_line():
    now = recipe("output_dir=there", "train.max_hours=2", "train.patience=3", "eval.every_epochs=2")
    (line,) = differences(recipe(), now)
    assert line.startswith("changed too: ")
    for change in ("output_dir: null -> there", "train.max_hours: null -> 2.0", "eval.every_epochs: 1 -> 2"):
        assert change in line


def test_sections_that_only_one_recipe_has_are_printed():
    before, after = recipe("data.val=null"), recipe("data.val.images=there")
    assert differences(before, after) == ["data.val.images: null -> there"]
    assert differences(after, before) == ["data.val.images: there -> null"]
    assert differences(recipe(), recipe("loss.class_weights={a: 2.0}")) == ["loss.class_weights.a: null -> 2.0"]


def test_a_key_that_the_saved_recipe_does_not_have_counts_as_its_default():
    before = recipe(task="classification")
    del before["train"]["deterministic"]
    assert differences(before, recipe(task="classification")) == []
    assert differences(before, recipe("train.deterministic=true", task="classification")) == [
        "train.deterministic: False -> True"
    ]
    assert ClassificationConfig().train.deterministic is False


def test_a_changed_data_set_is_printed_with_its_counts():
    before = {"fingerprints": {"train": "a", "val": "v"}, "images": 10, "objects": 20}
    assert data_changes(before, dict(before)) == []
    assert data_changes({}, before) == []  # of a run that did not save it
    (line,) = data_changes(before, {"fingerprints": {"train": "b", "val": "v"}, "images": 12, "objects": 20})
    assert line == (
        "the training set has changed (images 10 -> 12): the result will differ from that of an uninterrupted run"
    )
    (line,) = data_changes(
        {"fingerprints": {"train": "a", "val": "v"}}, {**before, "fingerprints": {"train": "b", "val": "v"}}
    )
    assert line.startswith("the training set has changed (images null -> 10, objects null -> 20)")
    for damaged in ("x", None, [], {"val": "v"}):
        (line,) = data_changes({**before, "fingerprints": damaged}, before)
        assert line.startswith("the file does not say which data set it was trained on")
    (line,) = data_changes(before, {**before, "fingerprints": {"train": "b", "val": "v"}})
    assert "as many as before, but others or in another order" in line
    (line,) = data_changes(before, {**before, "fingerprints": {"train": "a"}})
    assert line.startswith("the validation set has changed")


def test_a_resumed_run_prints_what_has_changed(tiny_run, tiny_recipe, tiny_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    file = data / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    shutil.copytree(tiny_run, tmp_path / "run")
    changes = [f"data.root={data}", "optim.weight_decay=1e-3", "train.epochs=3", "train.max_steps=6"]
    assert main(["train", str(tiny_recipe), "--resume", str(tmp_path / "run"), "--device", "cpu", *changes]) == 0
    printed = capsys.readouterr().out
    objects = len(content["annotations"])
    assert f"the training set has changed (objects {objects + 1} -> {objects}): the result will differ" in printed
    assert "optim.weight_decay: 4e-05 -> 0.001" in printed
    assert "train.epochs: 2 -> 3" in printed.split("changed too: ")[1]
