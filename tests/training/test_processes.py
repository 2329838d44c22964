"""Several processes, started by torchrun over gloo, do what one does."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch

from effdet.cli import main
from effdet.errors import TrainingError

CLOCKS = ("seconds", "images_per_second", "data_wait")
CPU = ("--device", "cpu")


def start(*arguments, processes=2, restarts=0):
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = f"{os.path.dirname(__file__)}/../../tools/{arguments[0]}.py"
    command = [sys.executable, *torchrun, f"--max-restarts={restarts}", script, *map(str, arguments[1:])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def records(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def weights(folder):
    return torch.load(folder / "last.pt", weights_only=True)["model"]


@pytest.fixture(scope="module")
def frozen(tiny_run):
    """Overrides of a run with frozen BatchNorm: batch statistics would be those of each process alone."""
    return ["train.batch_norm=frozen", f"model.weights={tiny_run}/best.pt", *CPU]


@pytest.fixture(scope="module")
def pair(tiny_recipe, frozen, tmp_path_factory):
    """The folder of a run of two processes with frozen BatchNorm, and what they printed."""
    folder = tmp_path_factory.mktemp("processes") / "pair"
    process = start("train", tiny_recipe, f"output_dir={folder}", *frozen)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    return folder, printed


def test_two_processes_train_as_one(pair, tiny_recipe, frozen, tmp_path):
    assert main(["train", str(tiny_recipe), f"output_dir={tmp_path}", *frozen]) == 0
    alone, together = records(tmp_path), records(pair[0])
    assert [list(line) for line in alone] == [list(line) for line in together]
    assert [line["step"] for line in alone] == [line["step"] for line in together]
    for one, two in zip(alone, together, strict=True):
        # The AP of a hardly trained model is left out: it hangs on the order of nearly equal scores.
        for name in one.keys() & {"loss", "class_loss", "box_loss", "learning_rate"}:
            assert two[name] == pytest.approx(one[name], rel=1e-5), name
    together = weights(pair[0])
    for name, value in weights(tmp_path).items():
        assert torch.allclose(value, together[name], rtol=1e-4, atol=2e-5), name


def test_only_one_process_prints(pair):
    assert pair[1].count("done: ") == 1
    assert pair[1].count("step 1 ") == 1


def test_a_run_of_two_processes_says_how_two_continue_it(tiny_recipe, frozen, tmp_path):
    process = start("train", tiny_recipe, f"output_dir={tmp_path}", *frozen, "train.max_hours=1e-9")
    printed, _ = process.communicate(timeout=240)
    (command,) = re.findall("continue with: torchrun (.*)", printed)
    options = [*shlex.split(command), "train.max_hours=null"]
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    printed = subprocess.run([*launcher, *options], capture_output=True, text=True, timeout=240, check=True).stdout
    assert "over 2 processes" in printed
    assert "resumed from" in printed
    assert "done: step 6 of 6" in printed


def test_torchrun_restarts_a_killed_process_and_the_run_ends_the_same(pair, tiny_recipe, frozen, tmp_path):
    often = ["train.save_every_minutes=0.000001", "--resume", "auto"]
    process = start("train", tiny_recipe, f"output_dir={tmp_path}", *often, *frozen, restarts=1)
    log, deadline = tmp_path / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and '"step": 2,' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "resumed from" in printed
    assert records(tmp_path) == records(pair[0])
    undisturbed = weights(pair[0])
    for name, value in weights(tmp_path).items():
        assert torch.equal(value, undisturbed[name]), name


@pytest.mark.slow
@pytest.mark.skipif("linux" not in sys.platform, reason="processes are stopped by Linux's signal")
def test_a_process_that_hangs_ends_the_others_after_the_timeout(tiny_recipe, frozen, tmp_path):
    process = start(
        "train", tiny_recipe, f"output_dir={tmp_path}", *frozen, "train.epochs=500", "train.timeout_minutes=0.2"
    )
    log, deadline = tmp_path / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and '"step": 2,' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    hanging = int(children.stdout.split()[-1])
    os.kill(hanging, signal.SIGSTOP)
    try:
        message = next((line for line in process.stdout if "error in process" in line), "")
    finally:
        os.kill(hanging, signal.SIGKILL)
        process.communicate(timeout=60)
    assert "another process has ended or does not answer" in message
    assert process.returncode != 0


def test_evaluation_by_three_processes_counts_each_image_once(tiny_run, tiny_recipe, tmp_path):
    given = [str(tiny_recipe), "--weights", str(tiny_run / "best.pt"), "eval.batch_size=1", "--device", "cpu"]
    assert main(["eval", *given, "--out", str(tmp_path / "one")]) == 0
    process = start("eval", *given, "--out", tmp_path / "three", processes=3)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    for name in ("metrics.json", "predictions.json"):
        assert (tmp_path / "three" / name).read_text() == (tmp_path / "one" / name).read_text()


def test_prediction_by_two_processes_writes_what_one_writes(tiny_run, tiny_data, tmp_path):
    images = tiny_data / "val2017"
    given = [str(images), "--weights", str(tiny_run / "best.pt"), "--conf", "0.001", "--batch-size", "1"]
    assert main(["predict", *given, "--device", "cpu", "--out", str(tmp_path / "one")]) == 0
    process = start("predict", *given, "--device", "cpu", "--out", tmp_path / "two")
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_image_that_one_process_cannot_read_ends_all_and_is_named(tiny_data, tmp_path):
    root = tmp_path / "data"
    subprocess.run(["cp", "-r", str(tiny_data), str(root)], check=True)
    broken = sorted((root / "train2017").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:-100])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {name: efficientdet_lite0, image_size: [64, 64], depth: 0.2}\n"
        f"data: {{root: {root}, workers: 0, val: null}}\n"
        "train: {epochs: 2, batch_size: 4}\n"
    )
    process = start("train", recipe, f"output_dir={tmp_path / 'run'}", *CPU)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert broken.name in printed
    assert "another process cannot read its images" in printed
    assert "effdet/training/engine.py" not in printed  # no traceback of ours


def test_the_error_for_a_lost_process_is_readable():
    from effdet.distributed import explain_lost_process

    with pytest.raises(TrainingError, match="another process has ended"), explain_lost_process():
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shapes"), explain_lost_process():
        raise RuntimeError("shapes do not fit")
