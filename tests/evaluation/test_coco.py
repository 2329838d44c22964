import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.evaluation.average_precision import METRIC_NAMES
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.result_rows import RESULT_KEYS, coco_results
from effdet.evaluation.results_file import read_results
from effdet.evaluation.tables import class_table, metrics_table
from effdet.evaluation.voc import METRIC_NAMES as VOC_NAMES
from effdet.structures import Detections
from effdet.types import PostprocessOptions

CASES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cases.py"))))


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
        format="coco",
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
        format="coco",
    )


@pytest.mark.parametrize(("count", "ap"), [(100, 1.0), (101, 0.99), (400, 0.257)])
def test_more_objects_than_coco_counts_are_noted_with_the_ap_of_all_detections(count, ap):
    table = crowded_table(count)
    evaluator = CocoEvaluator(table, PostprocessOptions(max_detections=400))
    for index in range(2):
        evaluator.add(index, true_detections(table, index))
    metrics = evaluator.metrics()
    assert metrics["AP"] == pytest.approx(ap, abs=0.01)
    notes = evaluator.notes(metrics)
    assert len(notes) == (count > 100)
    if notes:
        assert f"images have up to {count} objects of a class" in notes[0]
        assert "and 100.0% without it; postprocess.max_detections sets" in notes[0]


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


def metrics_of_rows(table, results):
    """The twelve numbers of pycocotools from the rows of an annotation file and of a results file."""
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
    truth = {
        "images": [{"id": image_id} for image_id in table.image_ids.tolist()],
        "categories": [{"id": category_id, "name": "x"} for category_id in table.label_map.category_ids],
        "annotations": annotations,
    }
    return dict(zip(METRIC_NAMES, CASES.by_pycocotools(truth, results).stats.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_written_results_have_the_metrics_of_pycocotools(seed):
    image_ids = np.random.default_rng(seed).permutation(900)[:24]  # sparse and not in the order of the table
    table = random_table(seed, category_ids=(3, 7, 90), image_ids=image_ids)
    evaluator = evaluate_noise(table, seed)
    expected = metrics_of_rows(table, evaluator.results())
    assert evaluator.metrics() == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected["AP"] < 0.9


def test_more_than_100_detections_of_an_image_count_as_in_pycocotools():
    table, rng = random_table(), np.random.default_rng(0)
    evaluator = CocoEvaluator(table)
    for index in range(len(table)):
        corners = np.sort(rng.integers(0, 2048, (400, 2, 2)), axis=1).reshape(400, 4) / 4
        scores = rng.permutation(100_000)[:400] / 100_000
        boxes, scores = (torch.from_numpy(values.astype(np.float32)) for values in (corners, scores))
        evaluator.add(index, Detections(boxes, scores, torch.zeros(400, dtype=torch.int64)))
    assert evaluator.metrics() == pytest.approx(metrics_of_rows(table, evaluator.results()), abs=1e-12)


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


def test_image_ids_may_be_strings():
    names = [f"img_{i:03d}" for i in range(24)]
    by_name, by_number = random_table(image_ids=names), random_table()
    assert evaluate_noise(by_name).metrics() == evaluate_noise(by_number).metrics()
    results = evaluate_noise(by_name).results()
    assert results[0]["image_id"] == "img_000"
    assert evaluate_noise(by_name).metrics() == pytest.approx(metrics_of_rows(by_name, results), abs=1e-12)


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
    assert evaluator.results() == [
        {"image_id": 20, "category_id": 90, "bbox": [1.5, 2.0, 10.0, 30.0], "score": 0.5, "file_name": "2.jpg"}
    ]
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


def test_the_settings_are_shown_below_the_table():
    from rich.console import Console

    def last_line(options):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(metrics_table({"AP": 0.5}, CocoEvaluator(random_table(), options).settings))
        return capture.get().splitlines()[-1]

    assert last_line(PostprocessOptions(max_detections=300)) == (
        "confidence threshold 0.001, NMS within each class at IoU 0.5, at most 300 detections per image; COCO counts "
        "100 detections per image and class"
    )
    assert last_line(PostprocessOptions(nms="soft")).startswith("confidence threshold 0.001, soft-NMS, at most 100 ")
    assert last_line(None) == "COCO counts 100 detections per image and class"


def test_the_table_of_classes_has_at_most_100_rows():
    from rich.console import Console

    def lines(count):
        console = Console(width=100)
        with console.capture() as capture:
            names = [f"class {number}" for number in range(count)]
            console.print(class_table(names, np.arange(count), {"AP": np.full(count, 0.5)}))
        return capture.get().splitlines()

    assert [line.split() for line in lines(2)] == [
        ["class", "objects", "AP"],
        ["class", "0", "0", "50.0"],
        ["class", "1", "1", "50.0"],
    ]
    many = lines(120)
    assert many[1].split()[:3] == ["class", "20", "20"]
    assert (len(many), many[-1]) == (102, "the 100 classes of 120 with most objects")


def test_detections_with_nan_are_left_out_and_counted():
    table = random_table()
    evaluator, expected = CocoEvaluator(table), evaluate_noise(table)
    evaluator.merge(expected.state())
    boxes, scores, labels = expected.state()[0]
    bad = np.array([[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [0, 0, 5, 5]], np.float32)
    evaluator.add(
        0,
        Detections(
            torch.from_numpy(np.concatenate([bad, boxes])),
            torch.from_numpy(np.concatenate([[0.9, 0.9, np.nan], scores]).astype(np.float32)),
            torch.from_numpy(np.concatenate([[0, 0, 0], labels])),
        ),
    )
    assert evaluator.metrics() == expected.metrics()
    assert evaluator.results() == expected.results()
    assert evaluator.notes(evaluator.metrics()) == ["3 detections with NaN or Inf in box or score left out"]


def test_classes_without_objects_are_noted():
    table = replace(random_table(), labels=np.zeros(len(random_table().labels), np.int64))
    assert CocoEvaluator(table).notes({"AP": 0}) == [
        "2 of 3 classes without objects in random.json do not count in AP and AR: class 2, class 3"
    ]


def test_a_data_set_without_objects_is_noted():
    table = random_table().subset(np.array([3]))
    assert CocoEvaluator(table).notes({"AP": -1}) == [
        "random.json: no objects, so that nothing can be measured: all metrics are -1"
    ]


def test_metrics_of_voc_are_given_for_its_format_and_for_difficult_objects():
    table = random_table()
    assert tuple(evaluate_noise(table).metrics()) == METRIC_NAMES
    of_voc = evaluate_noise(replace(table, format="voc")).metrics()
    assert tuple(of_voc) == (*METRIC_NAMES, *VOC_NAMES)
    assert 0 < of_voc["AP50_VOC2007"] < 1
    marked = evaluate_noise(replace(table, difficult=np.arange(len(table.labels)) == 3)).metrics()
    assert tuple(marked) == tuple(of_voc)
    assert tuple(CocoEvaluator(table, voc=True).metrics()) == tuple(of_voc)


@pytest.mark.parametrize("marked", [False, True])
def test_results_of_another_format_join_with_the_truth_beside_them(tmp_path, marked):
    names = [f"img_{i:03d}" for i in reversed(range(24))]
    table = replace(random_table(image_ids=names), format="voc")
    if marked:
        table = replace(table, difficult=np.arange(len(table.labels)) % 3 == 0)
    evaluator = evaluate_noise(table)
    metrics = evaluator.metrics()
    evaluator.write(tmp_path, metrics)
    truth, rows = (json.loads((tmp_path / name).read_text()) for name in ("truth.json", "predictions.json"))
    name_of = {image["id"]: image["file_name"] for image in truth["images"]}
    assert {row["file_name"] for row in rows} == {name_of[row["image_id"]] for row in rows}
    assert all(name_of[row["image_id"]] == row["file_name"] for row in rows)
    again, notes = read_results(tmp_path / "truth.json", tmp_path / "predictions.json", voc=True)
    assert again.metrics() == pytest.approx(metrics, abs=1e-12)
    assert notes[-1] == (
        "predictions.json: the lowest score is 0.1; a confidence threshold lowers AP, use 0.001 for an evaluation"
    )
    expected = CASES.by_pycocotools(truth, [{key: row[key] for key in RESULT_KEYS} for row in rows])
    assert list(metrics.values())[:12] == pytest.approx(expected.stats.tolist(), abs=1e-12)


def test_a_coco_data_set_is_not_written_again(tmp_path):
    evaluator = evaluate_noise(random_table())
    evaluator.write(tmp_path, evaluator.metrics())
    written = {"analysis.json", "confusion.csv", "confusion.png", "metrics.json", "predictions.json"}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_saved_results_have_the_four_keys_of_coco(tmp_path):
    evaluator = evaluate_noise(random_table(image_ids=np.arange(24) * 3))
    evaluator.save_results(tmp_path / "results.json")
    rows = json.loads((tmp_path / "results.json").read_text())
    assert all(tuple(row) == RESULT_KEYS for row in rows)
    assert [{**row, "file_name": f"{row['image_id'] // 3}.jpg"} for row in rows] == evaluator.results()


def test_written_predictions_are_the_results(tmp_path):
    names = np.array([f'"{number}" \\ \u00e9.jpg' for number in range(24)])
    evaluator = evaluate_noise(replace(random_table(image_ids=names), file_names=names))
    evaluator.write(tmp_path, {})
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert rows == evaluator.results()
    assert rows[0]["image_id"] == rows[0]["file_name"] == names[0]


def test_text_ids_are_refused_for_the_server_of_coco(tmp_path):
    names = [f"img_{i:03d}" for i in range(24)]
    with pytest.raises(DataError, match=r"random.json: images have ids such as 'img_000', but .* expects integers"):
        CocoEvaluator(random_table(image_ids=names)).save_results(tmp_path / "results.json")
    assert not list(tmp_path.iterdir())


def test_no_detections_are_written_as_an_empty_list(tmp_path):
    CocoEvaluator(random_table()).save_results(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []
