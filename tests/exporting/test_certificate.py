import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet.errors import DataError, WeightsError
from effdet.exporting.certificate import ApComparison, Comparison, certify, read_certificate
from effdet.exporting.certifying import CompareOptions, make_certificate
from effdet.exporting.comparing import TOLERANCES
from effdet.exporting.images import drawn_images, evenly_spaced
from effdet.weights.checkpoint import load_checkpoint, save_checkpoint


def certificate(weights, runtime, **options):
    return make_certificate(
        load_checkpoint(weights), weights, runtime, CompareOptions(**options), (), lambda line: None
    )


def scaled(outputs):
    return {name: values * 1.01 if name == "class_logits" else values for name, values in outputs.items()}


def shifted(outputs):
    outputs["boxes"][:, :3] += 4
    return outputs


def swapped(outputs):
    outputs["labels"][:, 0] = (outputs["labels"][:, 0] + 1) % 6
    return outputs


def higher(outputs):
    outputs["scores"][:, 0] *= 1.01
    return outputs


def broken(outputs):
    outputs["class_logits"][0, 0, 0] = torch.nan
    return outputs


@pytest.mark.parametrize("face", ["raw", "detections"])
@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_a_file_that_computes_the_same_agrees(detector, file_of, face, batch_size):
    made = certificate(detector, file_of(detector, face, batch_size=batch_size))
    assert made.agrees
    assert made.comparison.images == 3
    assert made.comparison.matching.equal == made.comparison.matching.compared > 20
    assert set(made.comparison.outputs) == ({"class_logits", "boxes"} if face == "raw" else set())
    assert "agrees with the PyTorch model" in "\n".join(made.lines())


@pytest.mark.parametrize(
    ("face", "change", "failure"),
    [
        ("raw", scaled, "class_logits differs by 0.01 of its largest value"),
        ("raw", shifted, "boxes differs by"),
        ("raw", broken, "class_logits differs by inf"),
        ("detections", shifted, "detections are different"),
        ("detections", swapped, "detections are different"),
        ("detections", higher, "detections are different"),
    ],
)
def test_another_output_box_class_or_score_is_a_failure(detector, file_of, face, change, failure):
    made = certificate(detector, file_of(detector, face, change))
    assert not made.agrees
    assert failure in "\n".join(made.failures)
    assert "DIFFERS" in "\n".join(made.lines())


def test_the_certificate_of_weights_with_equal_scores_says_that_it_proves_little(detector, file_of, tmp_path):
    checkpoint = load_checkpoint(detector)
    state = checkpoint.model.state_dict()
    heads = [name for name in state if name.startswith("class_head") and name.endswith("weight")]
    for name in heads:
        state[name] = torch.zeros_like(state[name])
    save_checkpoint(tmp_path / "flat.pt", state, checkpoint.card)
    flat = certificate(tmp_path / "flat.pt", file_of(tmp_path / "flat.pt", "raw"))
    assert flat.comparison.spread < 1e-5
    assert "the weights look untrained" in "\n".join(flat.lines())
    varied = certificate(detector, file_of(detector, "raw"))
    assert varied.comparison.spread > 1
    assert "untrained" not in "\n".join(varied.lines())


def test_a_classifier_is_compared_by_its_logits_and_its_best_class(classifier, file_of):
    made = certificate(classifier, file_of(classifier, "logits"))
    assert made.agrees
    assert made.comparison.same_class == made.comparison.images == 3
    wrong = certificate(
        classifier, file_of(classifier, "logits", lambda outputs: {"logits": outputs["logits"].flip(1)})
    )
    assert any("get another class" in failure for failure in wrong.failures)


def test_it_is_stored_as_json_and_read_again(detector, file_of):
    made = certificate(detector, file_of(detector, "raw"))
    assert read_certificate(json.loads(json.dumps(made.to_dict())), "model.onnx") == made
    for reference in made.comparison.drawn:
        assert len(reference.outputs["boxes"].values) == 64
        assert 0 < len(reference.detections) <= 10


@pytest.mark.parametrize(("plain", "message"), [({}, "has no certificate"), ({"source": 3}, "is damaged: 'source'")])
def test_a_missing_or_damaged_certificate_is_refused(plain, message):
    with pytest.raises(WeightsError, match=rf"model.onnx: .*{message}"):
        read_certificate(plain, "model.onnx")


def test_images_of_a_folder_are_compared_first(detector, file_of, tmp_path):
    import cv2

    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.full((60, 90, 3), 20 * number, np.uint8))
    made = certificate(detector, file_of(detector, "raw"), images=tmp_path)
    assert made.comparison.images == 8 + 3
    assert made.source == f"8 images of {tmp_path}, 2 drawn scenes and noise"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        certificate(detector, file_of(detector, "raw"), images=tmp_path / "empty")


def test_ap_is_measured_before_and_after_on_a_data_set(detector, trained, file_of, tiny_data):
    for made in (
        certificate(detector, file_of(detector, "raw"), data=tiny_data),
        certificate(trained, file_of(trained, "detections"), ap=True),
    ):
        assert made.agrees
        assert made.ap.images == 4
        assert made.ap.before == pytest.approx(made.ap.after, abs=1e-6)
    assert made.source.startswith("4 validation images of ")
    assert any(line.startswith("AP ") for line in made.lines())


def test_a_loss_of_ap_is_a_failure_above_the_limit(detector):
    comparison, ap = Comparison(images=1), ApComparison("AP", "data", 4, 0.5, 0.488)
    for limit, failures in ((1.5, ()), (1.0, ("AP falls by 1.20 points, more than 1",))):
        tolerance = replace(TOLERANCES["int8"], ap_loss=limit)
        assert certify(comparison, tolerance, "", "", ap, {}).failures == failures


def test_without_a_data_set_no_ap_is_measured(detector, file_of):
    assert certificate(detector, file_of(detector, "raw")).ap is None
    with pytest.raises(DataError, match="the weights have no recipe"):
        certificate(detector, file_of(detector, "raw"), ap=True)


def test_drawn_images_are_those_of_every_machine_and_the_last_is_noise(detector):
    card = load_checkpoint(detector).card
    images = drawn_images(card, 2)
    assert [image.shape for image in images] == [(128, 128, 3)] * 3
    assert [image.dtype for image in images] == [np.uint8] * 3
    assert images[-1].std() > 70
    for first, second in zip(images, drawn_images(card, 2), strict=True):
        assert (first == second).all()


def test_positions_are_evenly_spaced_and_different():
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 8) == [0, 1, 2]
    assert evenly_spaced(0, 8) == []
