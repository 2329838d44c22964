import csv
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from effdet.data.label_map import LabelMap
from effdet.errors import DataError, WeightsError
from effdet.evaluation.accuracy import METRIC_NAMES, AccuracyEvaluator
from effdet.evaluation.confusion_file import confusion_matrix, write_confusion
from effdet.evaluation.tables import metrics_table


def label_map(classes):
    return LabelMap(tuple(f"class {label}" for label in range(classes)), tuple(range(1, classes + 1)))


def random_images(images=300, classes=9, seed=0):
    """Logits of few different values, so that many are equal, and labels, of which the last is never given."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (images, classes), generator=generator).float()
    labels = torch.randint(0, max(1, classes - 1), (images,), generator=generator)
    logits[torch.arange(images), labels] += 1.0
    return logits, labels


def evaluate(logits, labels, batch=64):
    evaluator = AccuracyEvaluator(label_map(logits.shape[1]), [f"{index}.jpg" for index in range(len(logits))])
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    for rows in order.split(batch):
        evaluator.add(rows.tolist(), logits[rows], labels[rows])
    return evaluator


def matrix(evaluator):
    return confusion_matrix(*evaluator.confusion(), len(evaluator.label_map))


def slow_ranks(logits):
    """Labels of each image from the best to the worst; of equal logits the lower label first."""
    return [sorted(range(len(row)), key=lambda label: (-row[label], label)) for row in logits.tolist()]


def slow_metrics(logits, labels):
    ranks, truth = slow_ranks(logits), labels.tolist()
    right = [rank[0] == label for rank, label in zip(ranks, truth, strict=True)]
    near = [label in rank[:5] for rank, label in zip(ranks, truth, strict=True)]
    shares = []
    for label in set(truth):
        of_class = [hit for hit, true in zip(right, truth, strict=True) if true == label]
        shares.append(sum(of_class) / len(of_class))
    return {
        "top1": sum(right) / len(right),
        "top5": sum(near) / len(near),
        "mean_class_accuracy": sum(shares) / len(shares),
    }


@pytest.mark.parametrize("classes", [1, 2, 5, 6, 9, 40])
def test_metrics_agree_with_a_slow_loop_ties_included(classes):
    logits, labels = random_images(classes=classes)
    metrics = evaluate(logits, labels).metrics()
    assert metrics == pytest.approx(slow_metrics(logits, labels))
    assert tuple(metrics) == METRIC_NAMES
    assert all(type(value) is float for value in metrics.values())


def test_the_lower_label_wins_a_tie():
    logits = torch.zeros(2, 8)
    evaluator = evaluate(logits, torch.tensor([0, 5]))
    assert evaluator.metrics() == {"top1": 0.5, "top5": 0.5, "mean_class_accuracy": 0.5}
    assert matrix(evaluator)[:, 0].tolist() == [1, 0, 0, 0, 0, 1, 0, 0]


def test_few_classes_are_all_among_the_best_five():
    logits, labels = random_images(classes=4)
    assert evaluate(logits, labels).metrics()["top5"] == 1


def test_rare_classes_count_as_much_as_frequent_ones():
    logits = torch.eye(3)[[0] * 9 + [0]]
    evaluator = evaluate(logits, torch.tensor([0] * 9 + [1]))
    assert evaluator.metrics() == {"top1": 0.9, "top5": 1.0, "mean_class_accuracy": 0.5}


def test_nothing_is_measured_before_the_first_image():
    evaluator = AccuracyEvaluator(label_map(3), ["a.jpg"])
    assert evaluator.metrics() == dict.fromkeys(METRIC_NAMES, -1.0)
    assert evaluator.results() == []
    assert not matrix(evaluator).any()


def test_batches_do_not_matter_and_later_logits_count():
    logits, labels = random_images(50)
    evaluator = evaluate(torch.randn_like(logits), labels)
    evaluator.add(range(50), logits, labels)
    assert evaluator.results() == evaluate(logits, labels, batch=7).results()
    assert evaluator.metrics() == pytest.approx(slow_metrics(logits, labels))


def test_the_confusion_counts_true_rows_and_predicted_columns():
    logits, labels = random_images()
    expected = np.zeros((9, 9), np.int64)
    for rank, label in zip(slow_ranks(logits), labels.tolist(), strict=True):
        expected[label, rank[0]] += 1
    evaluator = evaluate(logits, labels)
    assert matrix(evaluator).dtype == np.int64
    assert matrix(evaluator).tolist() == expected.tolist()
    rows, columns, counts = evaluator.confusion()
    assert list(zip(rows, columns, strict=True)) == [tuple(entry) for entry in np.argwhere(expected)]
    assert counts.min() > 0


def test_the_confusion_of_21_000_classes_has_an_entry_for_each_pair_that_occurs(tmp_path):
    classes = 21_000
    evaluator = AccuracyEvaluator(label_map(classes), [f"{index}.jpg" for index in range(4)])
    logits = torch.zeros(4, classes)
    logits[range(4), [20_999, 5, 5, 7]] = 1.0
    evaluator.add(range(4), logits, torch.tensor([20_998, 5, 5, 5]))
    assert [values.tolist() for values in evaluator.confusion()] == [[5, 5, 20_998], [5, 7, 20_999], [2, 1, 1]]
    write_confusion(tmp_path / "confusion.csv", *evaluator.confusion(), evaluator.label_map.names)
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["true class", "predicted class", "images"],
            ["class 5", "class 5", "2"],
            ["class 5", "class 7", "1"],
            ["class 20998", "class 20999", "1"],
        ]


def test_results_have_the_best_five_classes_of_each_image_in_order():
    logits, labels = random_images(20)
    results = json.loads(json.dumps(evaluate(logits, labels).results()))
    assert [result["file_name"] for result in results] == [f"{index}.jpg" for index in range(20)]
    for result, row, rank, label in zip(results, logits.tolist(), slow_ranks(logits), labels.tolist(), strict=True):
        whole = sum(math.exp(value) for value in row)
        assert result["label"] == f"class {label}"
        assert [one["name"] for one in result["classes"]] == [f"class {best}" for best in rank[:5]]
        assert [one["class_id"] for one in result["classes"]] == [best + 1 for best in rank[:5]]
        scores = [one["score"] for one in result["classes"]]
        assert scores == pytest.approx([math.exp(row[best]) / whole for best in rank[:5]], abs=1e-5)
        assert scores == [round(score, 5) for score in scores]


def test_results_name_only_the_images_that_were_added():
    evaluator = AccuracyEvaluator(label_map(3), np.array(["a.jpg", "b.jpg", "c.jpg"]))
    evaluator.add([1], torch.eye(3)[:1], torch.tensor([2]))
    (result,) = evaluator.results()
    assert (result["file_name"], result["label"], len(result["classes"])) == ("b.jpg", "class 2", 3)
    assert type(result["file_name"]) is str


def test_logits_of_low_precision_with_a_gradient_are_taken():
    logits, labels = random_images(30)
    low = evaluate(logits.bfloat16().requires_grad_(), labels)
    assert low.results() == evaluate(logits, labels).results()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error_that_names_the_image(value):
    logits, labels = random_images(10)
    logits[7, 3] = value
    with pytest.raises(WeightsError, match=r"^7\.jpg: the logits .* NaN or Inf; .* use an earlier checkpoint$"):
        evaluate(logits, labels)


def test_a_model_of_other_classes_is_an_error():
    evaluator = AccuracyEvaluator(label_map(3), ["a.jpg"])
    with pytest.raises(DataError, match="the model has 4 classes, but the data set has 3; evaluate on"):
        evaluator.add([0], torch.zeros(1, 4), torch.tensor([0]))


def test_the_table_shows_percent_and_a_dash_for_what_was_not_measured():
    console = Console(width=120)
    with console.capture() as capture:
        console.print(metrics_table({"top1": 0.9234, "top5": -1.0}))
    lines = capture.get().splitlines()
    assert lines[1].split()[:2] == ["top1", "92.3"]
    assert lines[2].split()[:2] == ["top5", "\u2013"]


def test_the_confusion_file_has_names_in_its_first_row_and_column(tmp_path):
    names = ("red", "white, small", "plätt")
    evaluator = AccuracyEvaluator(LabelMap(names, (0, 1, 2)), ["a.jpg", "b.jpg"])
    evaluator.add([0, 1], torch.eye(3)[[1, 1]], torch.tensor([1, 2]))
    write_confusion(tmp_path / "new" / "confusion.csv", *evaluator.confusion(), names)
    with (tmp_path / "new" / "confusion.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["true class", *names],
        ["red", "0", "0", "0"],
        ["white, small", "0", "1", "0"],
        ["plätt", "0", "1", "0"],
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["confusion.csv"]


def test_evaluators_of_several_processes_are_merged_into_one():
    logits, labels = random_images()
    first, second = (AccuracyEvaluator(label_map(9), [f"{index}.jpg" for index in range(300)]) for _ in range(2))
    for evaluator, rows in ((first, range(0, 300, 2)), (second, range(1, 300, 2))):
        evaluator.add(rows, logits[rows], labels[rows])
    first.merge(second.state())
    whole = evaluate(logits, labels)
    assert first.metrics() == whole.metrics()
    assert first.results() == whole.results()
