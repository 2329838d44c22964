import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet.cli import main
from effdet.diagnosis.doctor.diagnose import diagnose_run
from effdet.diagnosis.doctor.model_checks import ReversedChannels, model_checks
from effdet.diagnosis.doctor.patient import open_patient
from effdet.diagnosis.doctor.training_checks import log_facts, overfit, small_objects, untrained_classes
from effdet.errors import WeightsError
from effdet.types import PostprocessOptions
from effdet.weights.card import read_card

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def learned(shapes_recipe, tmp_path_factory):
    """The folder of a classifier that knows its few images, which it is evaluated on too."""
    overrides = [
        "data.val.split=train",
        "augment={crop_area: null, horizontal_flip: 0}",
        "model={norm_momentum: 0.5, drop_path: 0, dropout: 0}",
        "loss.label_smoothing=0",
        "optim={name: adamw, learning_rate: 1.0e-3, base_batch_size: null, warmup_epochs: 3, grad_clip_norm: null}",
        "train={epochs: 24, batch_size: 18, precision: fp32, ema_decay: 0.1, log_every: 8}",
        "eval.every_epochs=0",
    ]
    folder = tmp_path_factory.mktemp("learned") / "run"
    assert main(["train", str(shapes_recipe), *overrides, f"output_dir={folder}", "--device", "cpu"]) == 0
    return folder


@pytest.fixture
def spoil(learned, tmp_path):
    """A function that copies the run with a change of its checkpoints' content, and gives the folder."""

    def copy(change):
        folder = tmp_path / "spoiled"
        shutil.copytree(learned, folder)
        for name in ("best.pt", "last.pt"):
            content = torch.load(folder / name, weights_only=True)
            change(content)
            torch.save(content, folder / name)
        return folder

    return copy


def test_a_sound_classifier_has_no_fault(learned):
    before = hashes(learned)
    diagnosis = diagnose_run(learned, device=CPU)
    assert diagnosis.sentence.startswith("no fault found: top1 is 100.0% on validation images and 100.0%")
    assert diagnosis.healthy
    assert not any(check.jumps for check in diagnosis.checks)
    assert hashes(learned) == before


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_classes_in_the_wrong_order_are_named(spoil):
    def change(content):
        first, second, third = content["card"]["class_names"]
        content["card"]["class_names"] = (second, first, third)

    sentence = diagnose_run(spoil(change), device=CPU).sentence
    assert sentence.startswith("the predicted classes are in the wrong order, frame stands for disc, disc stands for")


def test_an_average_that_was_never_updated_is_named(spoil):
    def change(content):
        card = read_card(content["card"])
        torch.manual_seed(0)
        fresh = card.spec.build(len(card.class_names)).state_dict()
        content["model"] = fresh
        if content["training"]:
            content["training"]["average"] = fresh

    sentence = diagnose_run(spoil(change), device=CPU).sentence
    assert sentence.startswith("the EMA of the weights was not updated")
    assert "top1 is 100.0% with the raw weights of last.pt instead of" in sentence


def test_another_normalization_is_named(spoil):
    def change(content):
        content["card"]["spec"].update(mean=[0.0] * 3, std=[1.0] * 3)

    diagnosis = diagnose_run(spoil(change), device=CPU)
    assert diagnosis.sentence.startswith("images are normalized in another way than in training")


def test_a_detector_that_trained_for_a_few_steps_learns(tiny_run):
    before = hashes(tiny_run)
    diagnosis = diagnose_run(tiny_run, device=CPU)
    average_precision = json.loads((tiny_run / "metrics.json").read_text())["AP"]
    percent = f"{100 * average_precision:.1f}%"
    assert diagnosis.sentence.startswith(f"it learns, train longer: AP is {percent} on validation images")
    assert "after 6 steps" in diagnosis.sentence
    assert not diagnosis.healthy
    changes = [check.change for check in diagnosis.checks]
    assert {"raw weights instead of their EMA", "red and blue exchanged", "training images"} <= set(changes)
    assert hashes(tiny_run) == before


@pytest.fixture
def own_data(tiny_data, tmp_path):
    """A copy of the data set of `tiny_run`, and a function that changes the annotations of a split in it."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)

    def change(split, edit):
        path = root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
        return root

    return change


def test_validation_images_without_objects_are_named(tiny_run, own_data):
    root = own_data("val2017", lambda content: content.update(annotations=[]))
    diagnosis = diagnose_run(tiny_run, overrides=[f"data.root={root}"], device=CPU)
    assert "the validation images have no objects" in diagnosis.sentence
    assert not diagnosis.healthy


def test_thresholds_without_predictions_are_named(tiny_run):
    diagnosis = diagnose_run(tiny_run, overrides=["postprocess.score_threshold=0.999"], device=CPU)
    assert "there are no predictions for 4 images with objects" in diagnosis.sentence
    assert "default thresholds and NMS" in [check.change for check in diagnosis.checks]


class RedOrBlue:
    """A runtime of a classifier that says 0 for images with more red than blue, else 1."""

    def __init__(self, card):
        self.card, self.device, self.image_size = card, CPU, card.spec.image_size

    def logits(self, images):
        difference = images[:, 0].int() - images[:, 2].int()
        blue = ((difference < -100).sum((1, 2)) > (difference > 100).sum((1, 2))).float()
        return torch.stack([1 - blue, blue, torch.full_like(blue, -1)], 1)


def patient_of(run, runtime=None):
    patient, _ = open_patient(run, None, [], CPU)
    return patient if runtime is None else replace(patient, model=None, training={}, runtime=runtime(patient.card))


def test_red_and_blue_exchanged_are_named(shapes_run):
    # Discs are red; a runtime that gets BGR images sees them blue.
    patient = patient_of(shapes_run, RedOrBlue)
    table = patient.table("train")
    table = table.subset(np.flatnonzero(table.labels == 0))
    assert patient.measure(table) == 1
    spoiled = replace(patient, runtime=ReversedChannels(patient.runtime))
    (check,) = [check for check in model_checks(spoiled, table, None, spoiled.measure(table)) if check.jumps]
    assert check.sentence("top1").startswith("red and blue are exchanged (BGR instead of RGB) between training and")
    assert not any(check.jumps for check in model_checks(patient, table, None, 1.0))


def test_a_detector_gets_reversed_channels_too(tiny_run):
    patient = patient_of(tiny_run)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    options = PostprocessOptions()
    expected = patient.runtime.detections(images.flip(1), options)
    assert ReversedChannels(patient.runtime).detections(images, options)[0].boxes.equal(expected[0].boxes)


def test_one_batch_is_learned_by_a_copy(shapes_run):
    patient = patient_of(shapes_run)
    before = {name: value.clone() for name, value in patient.model.state_dict().items()}
    first, last = overfit(patient, patient.table("train"))
    assert last < 0.7 * first
    assert all(value.equal(before[name]) for name, value in patient.model.state_dict().items())


def test_classes_without_training_objects_are_listed(tiny_run):
    patient = patient_of(tiny_run)
    train = patient.table("train")
    kept = train.select(train.labels != 0)
    untrained = untrained_classes(kept, train)
    assert untrained.tolist() == [True] + [False] * (len(untrained) - 1)
    assert not untrained_classes(train, train).any()


def test_the_log_of_a_run_without_learning_rate_is_a_fact(shapes_run, tmp_path):
    records = [{"step": 1, "loss": 1.0, "learning_rate": 0.0}, {"step": 2, "loss": float("nan"), "learning_rate": 0.0}]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(record) for record in records) + '\n{"step": 3, "lo')
    facts = log_facts(replace(patient_of(shapes_run), folder=tmp_path))
    assert [fact.split(";")[0] for fact in facts] == [
        "the loss of the last step in the log is NaN or Inf",
        "the learning rate in the log is 0 in every step",
    ]
    assert log_facts(patient_of(shapes_run)) == []


def test_objects_far_below_the_smallest_anchor_are_a_fact(tiny_run):
    patient = patient_of(tiny_run)
    table = patient.table("train")
    assert small_objects(patient, table) is None
    tiny = replace(table, boxes=np.concatenate([table.boxes[:, :2], table.boxes[:, :2] + 5], axis=1))
    assert small_objects(patient, tiny).startswith(
        "100% of the objects are smaller than half of the smallest anchor (24"
    )


def test_a_folder_without_checkpoints_says_what_it_holds(tmp_path):
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(WeightsError, match=r"has no best\.pt or last\.pt; it holds log\.jsonl; give the folder"):
        diagnose_run(tmp_path, device=CPU)
