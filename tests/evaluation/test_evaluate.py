import pytest
import torch

from effdet.config import load_config
from effdet.data.formats import read_table
from effdet.data.images import read_image
from effdet.data.resize import classification_view
from effdet.devices import move_to_device
from effdet.errors import DataError, WeightsError
from effdet.evaluation.evaluate import EVALUATE, evaluate
from effdet.inference.predictor import Predictor
from effdet.runtimes.pytorch import TorchRuntime
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint


@pytest.fixture
def classifier(shapes_run):
    return load_checkpoint(shapes_run / "best.pt").model


@pytest.fixture
def labels(shapes_recipe):
    return read_table(load_config(shapes_recipe).data, "train")


def evaluated(model, table, recipe, *overrides):
    card = ModelCard(model.spec, table.label_map.names, table.label_map.category_ids)
    runtime = TorchRuntime(model, card, torch.device("cpu"))
    return evaluate(runtime, table, load_config(recipe, ["data.workers=0", *overrides]))


def scores_of(row):
    return {one["name"]: one["score"] for one in row["classes"]}


def test_every_task_can_be_evaluated():
    from effdet.config import TASKS

    assert EVALUATE.keys() == TASKS.keys()


def test_a_classifier_is_evaluated_as_by_a_loop_over_the_files(classifier, labels, shapes_recipe):
    evaluator = evaluated(classifier, labels, shapes_recipe, "eval.batch_size=5")
    rows = evaluator.results()
    correct = []
    for index, row in enumerate(rows):
        image = classification_view(read_image(labels.path(index)), (64, 64), classifier.spec.crop, "bicubic")
        with torch.inference_mode():
            probabilities = classifier(torch.from_numpy(image).permute(2, 0, 1)[None])[0].softmax(0).tolist()
        assert row["file_name"] == labels.file_names[index]
        assert scores_of(row) == pytest.approx(dict(zip(labels.label_map.names, probabilities, strict=True)), abs=2e-5)
        assert list(scores_of(row).values()) == sorted(scores_of(row).values(), reverse=True)
        correct.append(row["classes"][0]["name"] == row["label"])
    assert len(evaluator) == len(rows) == 18
    assert evaluator.metrics()["top1"] == pytest.approx(sum(correct) / 18)


def test_the_model_is_evaluated_in_evaluation_mode_with_any_batch_size(classifier, labels, shapes_recipe):
    first = evaluated(classifier.train(), labels, shapes_recipe, "eval.batch_size=1")
    assert classifier.training
    second = evaluated(classifier, labels, shapes_recipe, "eval.batch_size=18", "data.workers=1")
    for row, other in zip(first.results(), second.results(), strict=True):
        assert (row["file_name"], row["label"]) == (other["file_name"], other["label"])
        assert scores_of(row) == pytest.approx(scores_of(other), abs=2e-5)


def test_a_classifier_is_evaluated_at_the_input_size_of_the_recipe(classifier, labels, shapes_recipe):
    seen = []
    classifier.conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    evaluated(classifier, labels, shapes_recipe, "model.image_size=[48, 96]", "eval.batch_size=18")
    evaluated(classifier, labels, shapes_recipe, "model.image_size=null", "eval.batch_size=18")
    assert seen == [(48, 96), (64, 64)]


def test_weights_that_give_nan_are_named_with_an_image(classifier, labels, shapes_recipe):
    with torch.no_grad():
        classifier.classifier.bias.fill_(float("nan"))
    with pytest.raises(WeightsError, match=r"^disc/0\.png: the logits of the model for this image are NaN or Inf"):
        evaluated(classifier, labels, shapes_recipe)


def test_an_image_that_is_gone_is_named(classifier, labels, shapes_recipe):
    labels.file_names[3] = "gone.png"
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        evaluated(classifier, labels, shapes_recipe)


@pytest.mark.parametrize("size", [(128, 128), (160, 96)])
def test_detections_are_those_of_the_predictor(tiny_run, tiny_recipe, size, tmp_path):
    table = read_table(load_config(tiny_recipe).data, "val")
    checkpoint = load_checkpoint(tiny_run / "best.pt")
    # One batch and one memory format in both: the scores of a hardly trained model are so close that another rounding
    # changes their order.
    model = move_to_device(checkpoint.model, torch.device("cpu"))
    options = [f"model.image_size={list(size)}", "postprocess.max_detections=7", f"eval.batch_size={len(table)}"]
    rows = evaluated(model, table, tiny_recipe, *options).results()
    predictor = Predictor(
        resized(checkpoint, size, tmp_path), "cpu", score_threshold=0.001, max_detections=7, batch_size=4
    )
    detections_of_images = list(predictor(table.path(index) for index in range(len(table))))
    assert len(rows) == sum(map(len, detections_of_images)) == 7 * len(table)
    for index, detections in enumerate(detections_of_images):
        own = [row for row in rows if row["image_id"] == table.image_ids[index]]
        assert [row["score"] for row in own] == pytest.approx(detections.scores.tolist(), abs=2e-5)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in own)]
        torch.testing.assert_close(torch.tensor(corners), detections.boxes, atol=3e-2, rtol=1e-4)


def resized(checkpoint, size, folder):
    """The file of a checkpoint whose model has another input size."""
    from dataclasses import replace

    from effdet.weights.checkpoint import save_checkpoint

    card = replace(checkpoint.card, spec=replace(checkpoint.card.spec, image_size=size))
    save_checkpoint(folder / "resized.pt", checkpoint.model.state_dict(), card)
    return folder / "resized.pt"
