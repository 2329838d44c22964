import json
import subprocess
import sys

import pytest
import torch

from effdet.cli import main
from effdet.data.synthetic import CLASS_NAMES
from effdet.models import ModelOptions, make_spec
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, tiny_data):
    """A run's folder with the best.pt of a small detector, and the program that was exported from it."""
    torch.manual_seed(0)
    model = (
        make_spec(ModelOptions("efficientdet_lite0", image_size=(128, 128), depth=0.2)).build(len(CLASS_NAMES)).eval()
    )
    with torch.no_grad():
        model.class_head.predict.pointwise.weight.mul_(100)  # spreads the scores, which are nearly equal otherwise
    config = {
        "task": "detection",
        "model": {"name": "efficientdet_lite0", "depth": 0.2},
        "data": {"root": str(tiny_data)},
    }
    ids = tuple(range(1, len(CLASS_NAMES) + 1))
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "best.pt", model.state_dict(), ModelCard(model.spec, CLASS_NAMES, ids, config=config))
    assert main(["export", "--weights", str(folder / "best.pt"), "--format", "torch", "--dynamic-batch"]) == 0
    return folder


def test_the_certificate_is_printed_and_the_file_is_beside_the_checkpoint(run_folder, capsys):
    capsys.readouterr()
    assert main(["verify", str(run_folder / "best.pt2")]) == 0
    text = capsys.readouterr().out
    assert "the one that was exported" in text
    assert "7: 4 validation images of " in text
    assert "0 different" in text
    assert "agrees with the PyTorch model" in text


def test_verify_fails_with_another_checkpoint(run_folder, tmp_path, capsys):
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(128, 128), depth=0.2)).build(len(CLASS_NAMES))
    ids = tuple(range(1, len(CLASS_NAMES) + 1))
    save_checkpoint(tmp_path / "other.pt", model.state_dict(), ModelCard(model.spec, CLASS_NAMES, ids))
    assert main(["verify", str(run_folder / "best.pt2"), "--weights", str(tmp_path / "other.pt")]) == 1
    assert "DIFFERS" in capsys.readouterr().out
    assert main(["verify", str(run_folder / "best.pt2"), "--weights", str(tmp_path / "none.pt")]) == 1
    assert "no such weights file" in capsys.readouterr().err


def test_eval_and_predict_run_the_file_as_the_checkpoint(run_folder, tiny_data, tmp_path):
    evaluated, predicted = [], []
    for name in ("best.pt", "best.pt2"):
        out = tmp_path / f"eval-{name}"
        assert main(["eval", "--weights", str(run_folder / name), "--out", str(out), "--device", "cpu"]) == 0
        evaluated.append(scores_in(out))
        folder = tmp_path / f"predict-{name}"
        source = next(path for path in tiny_data.rglob("*.jpg"))
        arguments = ["--weights", str(run_folder / name), "--out", str(folder), "--conf", "0.001", "--device", "cpu"]
        assert main(["predict", str(source), *arguments, "--no-images"]) == 0
        predicted.append(scores_in(folder))
    # AP of a hardly trained model depends on the order of nearly equal scores; the sorted scores do not.
    for checkpoint, file in (evaluated, predicted):
        assert len(checkpoint) > 0
        assert file == pytest.approx(checkpoint, rel=1e-3)


def scores_in(folder):
    return sorted(row["score"] for row in json.loads((folder / "predictions.json").read_text()))


def test_formats_faces_and_precisions_are_those_of_the_package():
    from typing import get_args

    from effdet.cli.export import FACES, FORMATS, PRECISIONS
    from effdet.types import ExportFormat, Face, StoredPrecision

    assert set(FORMATS) == set(get_args(ExportFormat))
    assert set(FACES) == set(get_args(Face))
    assert set(PRECISIONS) == set(get_args(StoredPrecision))


@pytest.mark.parametrize("verb", ["export", "verify"])
def test_asking_for_help_is_light(verb):
    code = (
        f"import effdet.cli\ntry: effdet.cli.main(['{verb}', '--help'])\nexcept SystemExit: pass\n"
        "import sys\nprint('loaded:', *(name for name in ('torch', 'numpy', 'cv2', 'onnx') if name in sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize(
    "arguments", [["--face", "raw", "--raw"], ["--dynamic-batch", "--batch-size", "2"], ["--format", "tensorrt"]]
)
def test_arguments_that_contradict_each_other_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export", "--weights", "best.pt", *arguments])
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err or "tensorrt" in arguments
