import pytest
import torch

from effdet.config import load_config
from effdet.data.formats import read_table
from effdet.data.images import read_image
from effdet.data.resize import classification_view
from effdet.errors import DataError, WeightsError
from effdet.evaluation.evaluate import evaluate_classifier, evaluate_detector
from effdet.inference.predictor import Predictor
from effdet.weights.checkpoint import load_checkpoint


@pytest.fixture
def classifier(shapes_run):
    return load_checkpoint(shapes_run / "best.pt").model


@pytest.fixture
def labels(shapes_recipe):
    return read_table(load_config(shapes_recipe).data, "train")


def test_answers_are_those_of_a_loop_over_the_files(classifier, labels):
    evaluator = evaluate_classifier(classifier, labels, batch_size=5, workers=0)
    rows = evaluator.results()
    right = []
    for index, row in enumerate(rows):
        image = classification_view(read_image(labels.path(index)), (64, 64), classifier.spec.crop, "bicubic")
        with torch.inference_mode():
            probabilities = classifier(torch.from_numpy(image).permute(2, 0, 1)[None])[0].softmax(0)
        assert row["file_name"] == labels.file_names[index]
        told = [labels.label_map.names[label] for label in probabilities.argsort(descending=True).tolist()]
        assert [one["name"] for one in row["classes"]] == told
        assert [one["score"] for one in row["classes"]] == pytest.approx(
            probabilities.sort(descending=True).values.tolist(), abs=2e-5
        )
        right.append(told[0] == row["label"])
    assert evaluator.metrics()["top1"] == pytest.approx(sum(right) / 18)


def test_the_model_is_evaluated_in_its_own_mode_and_batches_do_not_matter(classifier, labels):
    first = evaluate_classifier(classifier.train(), labels, batch_size=1, workers=0)
    assert not classifier.training
    second = evaluate_classifier(classifier, labels, batch_size=18, workers=1)
    assert first.metrics() == second.metrics()
    assert first.confusion().tolist() == second.confusion().tolist()


def test_weights_that_give_no_numbers_are_named_with_an_image(classifier, labels):
    with torch.no_grad():
        classifier.classifier.bias.fill_(float("nan"))
    with pytest.raises(WeightsError, match=r"^disc/0\.png: the network's logits of this image are not finite"):
        evaluate_classifier(classifier, labels, batch_size=4, workers=0)


def test_an_image_that_is_gone_is_named(classifier, labels):
    labels.file_names[3] = "gone.png"
    with pytest.raises(DataError, match=r"gone\.png: no such image"):
        evaluate_classifier(classifier, labels, batch_size=4, workers=0)


def test_detections_are_those_of_the_predictor(tiny_run, tiny_recipe):
    config = load_config(tiny_recipe)
    table = read_table(config.data, "val")
    model = load_checkpoint(tiny_run / "best.pt").model
    options = {**config.postprocess.model_dump(), "max_detections": 7}
    rows = evaluate_detector(model, table, options, batch_size=3, workers=0).results()
    predictor = Predictor(tiny_run / "best.pt", "cpu", score_threshold=0.001, max_detections=7)
    found = list(predictor(table.path(index) for index in range(len(table))))
    assert len(rows) == sum(map(len, found)) == 7 * len(table)
    for index, detections in enumerate(found):
        own = [row for row in rows if row["image_id"] == table.image_ids[index]]
        assert [row["score"] for row in own] == pytest.approx(detections.scores.tolist(), abs=1e-5)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in own)]
        torch.testing.assert_close(torch.tensor(corners), detections.boxes, atol=1e-2, rtol=1e-4)
