import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.evaluation.average_precision import METRIC_NAMES
from effdet.evaluation.coco import CocoEvaluator, coco_results
from effdet.evaluation.tables import metrics_table
from effdet.structures import Detections


def random_table(seed=0, category_ids=(1, 2, 3), image_ids=None, images=24, largest=200):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 7, images)
    counts[3] = 0
    total = int(counts.sum())
    corner, side = rng.integers(0, 300, (total, 2)), rng.integers(4, largest, (total, 2))
    return Annotations(
        source=Path("random.json"),
        image_folder=Path("."),
        file_names=np.array([f"{i}.jpg" for i in range(images)]),
        image_ids=np.arange(images) if image_ids is None else np.asarray(image_ids),
        sizes=np.full((images, 2), 512, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.concatenate([corner, corner + side], 1).astype(np.float32),
        labels=rng.integers(0, len(category_ids), total),
        crowd=rng.random(total) < 0.15,
        areas=side.prod(1) * 0.8,
        difficult=np.zeros(total, bool),
        label_map=LabelMap(tuple(f"class {i}" for i in category_ids), tuple(category_ids)),
    )


def crowded_table(count):
    """Two images with `count` objects of one class each, on a grid."""
    corners = np.stack(np.meshgrid(np.arange(20) * 32, np.arange(20) * 32), -1).reshape(-1, 2)[:count] + 4
    boxes = np.tile(np.concatenate([corners, corners + 20], 1), (2, 1)).astype(np.float32)
    return Annotations(
        source=Path("eggs.json"),
        image_folder=Path("."),
        file_names=np.array(["0.jpg", "1.jpg"]),
        image_ids=np.arange(2),
        sizes=np.full((2, 2), 640, np.int32),
        offsets=np.array([0, count, 2 * count]),
        boxes=boxes,
        labels=np.zeros(2 * count, np.int64),
        crowd=np.zeros(2 * count, bool),
        areas=np.full(2 * count, 400.0),
        difficult=np.zeros(2 * count, bool),
        label_map=LabelMap(("egg",), (1,)),
    )


@pytest.mark.parametrize(("count", "ap"), [(100, 1.0), (101, 0.99), (400, 0.257)])
def test_more_objects_than_coco_counts_are_noted_with_the_ap_of_all_detections(count, ap):
    table = crowded_table(count)
    evaluator = CocoEvaluator(table)
    for index in range(2):
        evaluator.add(index, true_detections(table, index))
    metrics = evaluator.metrics()
    assert metrics["AP"] == pytest.approx(ap, abs=0.01)
    notes = evaluator.notes(metrics)
    assert len(notes) == (count > 100)
    if notes:
        assert f"images have up to {count} objects of a class" in notes[0]
        assert "and 100.0% without it" in notes[0]


def true_detections(table, index):
    rows = table.rows(index)
    return Detections(
        torch.from_numpy(table.boxes[rows]), torch.ones(rows.stop - rows.start), torch.from_numpy(table.labels[rows])
    )


def noisy_detections(table, index, rng):
    """The true boxes shifted, some doubled, some of another class, and false ones; scores in tenths, many equal.

    All numbers have so few digits that rounding in a results file changes none.
    """
    rows = table.rows(index)
    boxes = np.repeat(table.boxes[rows], 2, axis=0) + rng.integers(-6, 7, (2 * (rows.stop - rows.start), 1))
    boxes = np.concatenate([boxes, np.sort(rng.integers(0, 1600, (5, 2, 2)), axis=1).reshape(5, 4) / 4]).astype(
        np.float32
    )
    labels = np.concatenate([np.repeat(table.labels[rows], 2), rng.integers(0, 3, 5)])
    labels[rng.random(len(labels)) < 0.2] = 0
    scores = rng.integers(1, 10, len(labels)).astype(np.float32) / 10
    return Detections(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels))


def evaluate_noise(table, seed=1):
    evaluator, rng = CocoEvaluator(table), np.random.default_rng(seed)
    for index in range(len(table)):
        detections = noisy_detections(table, index, rng)
        if index not in (5, 7):  # images for which nothing was found
            evaluator.add(index, detections)
    return evaluator


def metrics_of_files(table, results, folder):
    """The twelve numbers by the usual way: annotation and result files read by pycocotools."""
    images = np.repeat(table.image_ids, np.diff(table.offsets))
    annotations = [
        {
            "id": number + 1,
            "image_id": images[number].item(),
            "category_id": table.label_map.category_ids[table.labels[number]],
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "area": float(table.areas[number]),
            "iscrowd": int(table.crowd[number]),
        }
        for number, (x1, y1, x2, y2) in enumerate(table.boxes)
    ]
    data = {
        "images": [{"id": image_id} for image_id in table.image_ids.tolist()],
        "categories": [{"id": category_id, "name": "x"} for category_id in table.label_map.category_ids],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "results.json").write_text(json.dumps(results))
    truth = COCO(folder / "truth.json")
    evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(METRIC_NAMES, evaluation.stats.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_those_of_pycocotools_with_files(tmp_path, seed):
    image_ids = np.random.default_rng(seed).permutation(900)[:24]  # sparse and not in the order of the table
    table = random_table(seed, category_ids=(3, 7, 90), image_ids=image_ids)
    evaluator = evaluate_noise(table, seed)
    expected = metrics_of_files(table, evaluator.results(), tmp_path)
    assert evaluator.metrics() == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected["AP"] < 0.9


def test_more_than_100_detections_of_an_image_count_as_in_pycocotools(tmp_path):
    table, rng = random_table(), np.random.default_rng(0)
    evaluator = CocoEvaluator(table)
    for index in range(len(table)):
        corners = np.sort(rng.integers(0, 2048, (400, 2, 2)), axis=1).reshape(400, 4) / 4
        scores = rng.permutation(100_000)[:400] / 100_000
        boxes, scores = (torch.from_numpy(values.astype(np.float32)) for values in (corners, scores))
        evaluator.add(index, Detections(boxes, scores, torch.zeros(400, dtype=torch.int64)))
    assert evaluator.metrics() == pytest.approx(metrics_of_files(table, evaluator.results(), tmp_path), abs=1e-12)


def test_true_boxes_give_an_ap_of_one():
    table = random_table()
    evaluator = CocoEvaluator(table)
    for index in range(len(table)):
        evaluator.add(index, true_detections(table, index))
    metrics = evaluator.metrics()
    assert tuple(metrics) == METRIC_NAMES
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"):
        assert metrics[name] == pytest.approx(1)


def test_category_ids_do_not_change_the_numbers():
    dense, one_based, sparse = (
        evaluate_noise(random_table(category_ids=ids)).metrics() for ids in ((0, 1, 2), (1, 2, 3), (3, 7, 90))
    )
    assert dense == one_based == sparse


def test_image_ids_may_be_strings(tmp_path):
    names = [f"img_{i:03d}" for i in range(24)]
    by_name, by_number = random_table(image_ids=names), random_table()
    assert evaluate_noise(by_name).metrics() == evaluate_noise(by_number).metrics()
    results = evaluate_noise(by_name).results()
    assert results[0]["image_id"] == "img_000"
    assert evaluate_noise(by_name).metrics() == pytest.approx(metrics_of_files(by_name, results, tmp_path), abs=1e-12)


def test_no_detections_give_zeros_and_no_output(capsys):
    table = random_table()
    assert CocoEvaluator(table).metrics() == dict.fromkeys(METRIC_NAMES, 0.0)
    evaluator = CocoEvaluator(table)
    evaluator.add(0, Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64)))
    assert evaluator.metrics() == dict.fromkeys(METRIC_NAMES, 0.0)
    assert evaluator.results() == []
    assert capsys.readouterr().out == ""


def test_a_size_of_which_there_are_no_objects_is_minus_one():
    metrics = evaluate_noise(random_table(largest=20)).metrics()
    assert metrics["APs"] > 0
    assert metrics["APl"] == metrics["ARl"] == -1.0


def test_a_data_set_without_objects_is_minus_one_throughout():
    table = random_table().subset(np.array([3]))
    evaluator = CocoEvaluator(table)
    evaluator.add(0, Detections(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.9]), torch.tensor([1])))
    assert evaluator.metrics() == dict.fromkeys(METRIC_NAMES, -1.0)


def test_results_carry_ids_of_the_data_set_and_xywh_boxes():
    table = random_table(category_ids=(3, 7, 90), image_ids=np.arange(24) * 10)
    evaluator = CocoEvaluator(table)
    evaluator.add(2, Detections(torch.tensor([[1.5, 2, 11.5, 32]]), torch.tensor([0.5]), torch.tensor([2])))
    assert evaluator.results() == [{"image_id": 20, "category_id": 90, "bbox": [1.5, 2.0, 10.0, 30.0], "score": 0.5}]
    assert json.loads(json.dumps(evaluator.results())) == evaluator.results()


def test_a_results_row_has_two_decimals_of_pixels_and_five_of_the_score():
    boxes = torch.tensor([[0.004, 1.006, 10.008, 21.0], [1 / 3, 2 / 3, 100 / 3, 100.0]])
    detections = Detections(boxes, torch.tensor([0.1234567, 1 / 3]), torch.tensor([1, 0]), ("cat", "dog"))
    assert coco_results("a.jpg", detections, LabelMap(("cat", "dog"), (3, 90))) == [
        {"image_id": "a.jpg", "category_id": 90, "bbox": [0.0, 1.01, 10.01, 19.99], "score": 0.12346},
        {"image_id": "a.jpg", "category_id": 3, "bbox": [0.33, 0.67, 33.0, 99.33], "score": 0.33333},
    ]
    assert coco_results(7, Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0).long()), LabelMap((), ())) == []


def test_metrics_are_of_the_detections_before_rounding():
    table = random_table().subset(np.array([0]))
    boxes = torch.tensor([[400.0, 400, 500, 500], table.boxes[0].tolist()])
    metrics = []
    for scores in ([0.500001, 0.500002], [0.500002, 0.500001]):  # equal in a results file
        evaluator = CocoEvaluator(table)
        evaluator.add(0, Detections(boxes, torch.tensor(scores), torch.from_numpy(table.labels[[0, 0]])))
        metrics.append(evaluator.metrics()["AP"])
    assert metrics[0] > metrics[1]


def test_an_image_given_twice_counts_once():
    table = random_table()
    once, twice = evaluate_noise(table), evaluate_noise(table)
    for index in (0, 1):
        detections = noisy_detections(table, index, np.random.default_rng(9))
        once.add(index, detections)
        twice.add(index, true_detections(table, index))
        twice.add(index, detections)
    assert once.results() == twice.results()


def test_a_label_beyond_the_data_set_is_refused():
    with pytest.raises(DataError, match=r"random.json: the model detects class number 5, but .* only 3 classes"):
        CocoEvaluator(random_table()).add(
            0, Detections(torch.zeros(1, 4), torch.ones(1), torch.full((1,), 5, dtype=torch.int64))
        )


def test_the_table_shows_percent_and_a_dash_for_missing_sizes():
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as capture:
        console.print(metrics_table({"AP": 0.4567, "APs": -1.0}))
    ap, small = capture.get().splitlines()[1:]
    assert ap.split()[:2] == ["AP", "45.7"]
    assert small.split()[:2] == ["APs", "\u2013"]
