import json
import math

import numpy as np
import pytest
import torch

from effdet.data.label_map import LabelMap
from effdet.evaluation.accuracy import AccuracyEvaluator
from effdet.evaluation.accuracy_analysis import wilson_interval


def evaluated(logits, labels, classes=None):
    classes = logits.shape[1] if classes is None else classes
    label_map = LabelMap(tuple(f"class {label}" for label in range(classes)), tuple(range(1, classes + 1)))
    evaluator = AccuracyEvaluator(label_map, [f"{index}.jpg" for index in range(len(logits))])
    if len(logits):
        evaluator.add(range(len(logits)), logits, labels)
    return evaluator


def random_images(images=400, classes=7, seed=0, strength=1.5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits[torch.arange(images), labels] += strength
    return logits, labels


def analysis_of(logits, labels):
    evaluator = evaluated(logits, labels)
    return evaluator.analysis(evaluator.metrics())


def test_classes_agree_with_a_slow_loop():
    logits, labels = random_images()
    predicted, truth = logits.argmax(1).tolist(), labels.tolist()
    for label, row in enumerate(analysis_of(logits, labels)["classes"]):
        hits = sum(true == guess == label for true, guess in zip(truth, predicted, strict=True))
        recall, precision = hits / truth.count(label), hits / predicted.count(label)
        wrong = [guess for true, guess in zip(truth, predicted, strict=True) if true == label and guess != label]
        assert row["images"] == truth.count(label)
        assert row["accuracy"] == pytest.approx(recall, abs=1e-5)
        assert row["precision"] == pytest.approx(precision, abs=1e-5)
        assert row["F1"] == pytest.approx(2 * recall * precision / (recall + precision), abs=1e-5)
        most = max(map(wrong.count, wrong))
        assert row["confused_with"] == f"class {min(guess for guess in wrong if wrong.count(guess) == most)}"


def test_the_interval_of_a_metric_agrees_with_images_drawn_one_by_one():
    logits, labels = random_images(images=150)
    intervals = analysis_of(logits, labels)["intervals"]
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(2000):
        rows = rng.integers(0, 150, 150)
        drawn.append(list(evaluated(logits[rows], labels[rows]).metrics().values()))
    expected = np.quantile(drawn, [0.025, 0.975], axis=0).T
    for name, ends in zip(("top1", "top5", "mean_class_accuracy"), expected, strict=True):
        assert intervals[name] == pytest.approx(ends, abs=0.015)


def test_the_interval_of_the_accuracy_covers_it_in_repeated_samples():
    covered = 0
    for seed in range(200):
        logits, labels = random_images(images=120, seed=seed)
        low, high = analysis_of(logits, labels)["intervals"]["top1"]
        covered += low <= 0.581 <= high  # measured on a million images
    assert 0.9 <= covered / 200 <= 0.99


def test_the_accuracy_of_the_simulation_is_what_the_test_above_says():
    logits, labels = random_images(images=300_000, seed=9)
    assert (logits.argmax(1) == labels).double().mean().item() == pytest.approx(0.581, abs=0.003)


def test_the_interval_of_a_class_solves_the_equation_of_the_score_test():
    for hits, images in ((0, 5), (3, 10), (10, 10), (777, 1000)):
        low, high = wilson_interval(hits, images)
        for end in (low, high):
            if 0 < end < 1:
                z = (hits / images - end) / math.sqrt(end * (1 - end) / images)
                assert abs(z) == pytest.approx(1.96, abs=2e-3)
        assert low <= hits / images <= high


def test_calibration_and_coverage_agree_with_a_slow_loop():
    logits, labels = random_images()
    analysis = analysis_of(logits, labels)
    scores, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).numpy()
    scores = scores.double().numpy()
    error = 0.0
    for row in analysis["calibration"]["bins"]:
        inside = (scores >= row["low"]) & (scores < row["high"] if row["high"] < 1 else scores <= 1)
        assert row["count"] == inside.sum()
        if row["count"]:
            assert row["score"] == pytest.approx(scores[inside].mean(), abs=1e-4)
            assert row["precision"] == pytest.approx(right[inside].mean(), abs=1e-4)
            error += inside.mean() * abs(scores[inside].mean() - right[inside].mean())
    assert analysis["calibration"]["error"] == pytest.approx(error, abs=1e-4)
    curves = analysis["curves"]
    for score, coverage, accuracy in zip(curves["score"], curves["coverage"], curves["accuracy"], strict=True):
        above = scores >= score
        assert coverage == pytest.approx(above.mean(), abs=1e-5)
        assert accuracy == (pytest.approx(right[above].mean(), abs=1e-5) if above.any() else None)


def test_the_worst_images_are_wrong_and_sorted_and_few_of_a_class():
    logits, labels = random_images(images=1500, strength=0.5)
    worst = analysis_of(logits, labels)["worst"]
    assert len(worst) == 72
    scores = [image["predictions"][0]["score"] for image in worst]
    assert scores == sorted(scores, reverse=True)
    for image in worst:
        assert image["true"] == labels[image["index"]] != image["predictions"][0]["label"]
        assert image["file_name"] == f"{image['index']}.jpg"
    assert max(sum(image["true"] == label for image in worst) for label in range(7)) == 12


def test_the_confusion_matrix_counts_every_image():
    logits, labels = random_images()
    entries = analysis_of(logits, labels)["confusion"]["entries"]
    assert sum(count for _, _, count in entries) == 400
    for true, guess, count in entries:
        assert count == ((labels == true) & (logits.argmax(1) == guess)).sum()


@pytest.mark.parametrize("images", [0, 1])
def test_an_analysis_of_hardly_any_images_is_plain(images):
    logits, labels = random_images(images=images)
    evaluator = evaluated(logits, labels, classes=7)
    analysis = evaluator.analysis(evaluator.metrics())
    assert json.loads(json.dumps(analysis, allow_nan=False)) == analysis
    assert analysis["images"] == images
    assert (analysis["intervals"] is None) == (images == 0)
    assert all(row["interval"] is None for row in analysis["classes"])


def test_perfect_predictions_have_no_worst_images():
    labels = torch.arange(6) % 3
    analysis = analysis_of(torch.nn.functional.one_hot(labels, 3) * 20.0, labels)
    assert analysis["worst"] == []
    assert analysis["metrics"]["top1"] == 1
    assert [row["confused_with"] for row in analysis["classes"]] == [None] * 3


def test_the_analysis_is_written_beside_the_metrics(tmp_path):
    logits, labels = random_images(images=30)
    evaluator = evaluated(logits, labels)
    evaluator.write(tmp_path, evaluator.metrics())
    written = json.loads((tmp_path / "analysis.json").read_text())
    assert written["metrics"] == json.loads((tmp_path / "metrics.json").read_text())
    assert written["task"] == "classification"
