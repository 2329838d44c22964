from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet.cli import main
from effdet.errors import ConfigError
from effdet.evaluation.calibration import with_temperature
from effdet.inference.confidence import choose_confidence
from effdet.inference.predictor import Predictor
from effdet.models import ModelOptions, make_spec
from effdet.structures import Detections
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint, save_checkpoint
from effdet.weights.exported import ExportCard

NAMES = ("red", "white", "platelet")
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small detector with random weights, whose scores spread around 0.5, with what an evaluation stores."""
    torch.manual_seed(0)
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(128, 128), depth=0.2)).build(3).eval()
    state = model.state_dict()
    with torch.inference_mode():
        logits = model(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)).class_logits.flatten()
    bias = next(key for key in state if key.startswith("class_head") and state[key].shape == (27,))
    weight, scale = bias.replace("bias", "weight"), 1.5 / float(logits.std())
    state[weight] = state[weight] * scale
    state[bias] = -(logits - state[bias].mean()).topk(60).values[-1] * scale + torch.zeros(27)
    card = ModelCard(
        model.spec,
        NAMES,
        (1, 2, 3),
        score_threshold=0.25,
        class_thresholds=(0.2, 0.35, 0.3),
        temperature=0.25,
    )
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    save_checkpoint(path, state, card)
    return path


@pytest.fixture(scope="module")
def bare(weights, tmp_path_factory):
    """The same detector without an evaluation."""
    stored = load_checkpoint(weights)
    card = replace(stored.card, score_threshold=None, class_thresholds=(), temperature=None)
    path = tmp_path_factory.mktemp("bare") / "best.pt"
    save_checkpoint(path, stored.model.state_dict(), card)
    return path


@pytest.fixture(scope="module")
def everything(weights):
    """All detections of the image."""
    found = Predictor(weights, "cpu", score_threshold=0.0)(IMAGE)
    assert found.scores.min() < 0.25 < found.scores.max()
    return found


def assert_same(given, expected):
    assert given.labels.equal(expected.labels)
    torch.testing.assert_close(given.boxes, expected.boxes)
    torch.testing.assert_close(given.scores, expected.scores)


def test_the_default_is_the_stored_threshold(weights, everything):
    predictor = Predictor(weights, "cpu")
    assert_same(predictor(IMAGE), everything[everything.scores >= 0.25])
    assert predictor.confidence == "confidence threshold 0.25: best F1 on the validation split"


def test_a_model_without_an_evaluation_has_a_threshold_of_0_3_and_says_so(bare, everything):
    predictor = Predictor(bare, "cpu")
    assert_same(predictor(IMAGE), everything[everything.scores >= 0.3])
    assert predictor.confidence == (
        "confidence threshold 0.3: the default, because the model has none from an evaluation"
    )


def test_each_class_may_have_its_own_threshold(weights, everything):
    predictor = Predictor(weights, "cpu", score_threshold="class")
    limits = torch.tensor([0.2, 0.35, 0.3])[everything.labels]
    expected = everything[everything.scores >= limits]
    assert 0 < len(expected) < len(everything[everything.scores >= 0.2])
    assert_same(predictor(IMAGE), expected)
    assert predictor.confidence == (
        "confidence thresholds red 0.2, white 0.35, platelet 0.3: best F1 of each class on the validation split"
    )


def test_a_number_is_used_as_it_is(weights, everything):
    predictor = Predictor(weights, "cpu", score_threshold=0.35)
    assert_same(predictor(IMAGE), everything[everything.scores >= 0.35])
    assert predictor.confidence == "confidence threshold 0.35"


@pytest.mark.parametrize("choice", ["auto", "class"])
def test_calibration_changes_scores_and_no_detections(weights, choice):
    plain = Predictor(weights, "cpu", score_threshold=choice)(IMAGE)
    calibrated = Predictor(weights, "cpu", score_threshold=choice, calibrated=True)(IMAGE)
    scores = torch.from_numpy(with_temperature(plain.scores.numpy(), 0.25)).float()
    assert_same(calibrated, replace(plain, scores=scores))
    assert not calibrated.scores.equal(plain.scores)


def test_a_number_is_a_threshold_of_calibrated_scores(weights, everything):
    predictor = Predictor(weights, "cpu", score_threshold=0.8, calibrated=True)
    scores = torch.from_numpy(with_temperature(everything.scores.numpy(), 0.25)).float()
    assert_same(predictor(IMAGE), replace(everything, scores=scores)[scores >= 0.8])


def test_what_the_model_does_not_have_is_refused(bare, weights):
    with pytest.raises(ConfigError, match=r"best\.pt: has no confidence thresholds by class; train it"):
        Predictor(bare, "cpu", score_threshold="class")
    with pytest.raises(ConfigError, match=r"best\.pt: has no temperature, so scores cannot be calibrated"):
        Predictor(bare, "cpu", calibrated=True)
    with pytest.raises(ConfigError, match="score_threshold is 'best'; expected 'auto', 'class' or a number"):
        Predictor(weights, "cpu", score_threshold="best")
    with pytest.raises(ConfigError, match=r"postprocess\.score_threshold' is 3"):
        Predictor(weights, "cpu", score_threshold=3.0, calibrated=True)


def test_a_higher_threshold_inside_a_file_is_said(weights):
    card = load_checkpoint(weights).card
    chosen = choose_confidence(card, "auto", False, 0.6, "best.onnx")
    assert chosen.lowest == pytest.approx(0.6)
    assert chosen.text == (
        "confidence threshold 0.6: best F1 on the validation split, but at least 0.6, the lowest score in best.onnx"
    )
    chosen = choose_confidence(card, "class", False, 0.25, "best.onnx")
    np.testing.assert_allclose(chosen.by_class, [0.25, 0.35, 0.3], rtol=1e-6)
    assert choose_confidence(card, "auto", False, 0.001, "best.onnx").lowest == pytest.approx(0.25)


def test_many_classes_are_summed_up(weights):
    names = tuple(map(str, range(80)))
    card = replace(
        load_checkpoint(weights).card, class_names=names, class_thresholds=tuple(np.linspace(0.2, 0.6, 80).tolist())
    )
    text = choose_confidence(card, "class", False, 0.0, "best.pt").text
    assert text.startswith("confidence thresholds 0.2 to 0.6 by class: ")


def test_no_detections_stay_none(weights):
    card = load_checkpoint(weights).card
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(choose_confidence(card, "class", True, 0.0, "best.pt").apply(none)) == 0


def test_exported_files_hold_what_the_checkpoint_stores(weights):
    from effdet.weights.exported import read_export_card

    card = load_checkpoint(weights).card
    export = ExportCard(card, "detections", postprocess=PostprocessOptions())
    assert read_export_card(export.to_json(), "best.onnx").model == card


def test_the_command_prints_the_threshold(weights, tmp_path, capsys):
    import cv2

    cv2.imwrite(str(tmp_path / "image.png"), IMAGE)
    common = [str(tmp_path / "image.png"), "--weights", str(weights), "--device", "cpu", "--no-images"]
    assert main(["predict", *common, "--out", str(tmp_path / "auto")]) == 0
    assert "confidence threshold 0.25: best F1 on the validation split\n" in capsys.readouterr().out
    assert main(["predict", *common, "--out", str(tmp_path / "class"), "--conf", "class", "--calibrated"]) == 0
    assert "confidence thresholds red 0.00389, white 0.0775, platelet 0.0326: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["predict", *common, "--out", str(tmp_path / "none"), "--conf", "best"])
    assert "argument --conf: best is neither a number, auto nor class" in capsys.readouterr().err
