import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.diagnosis.doctor.diagnose import diagnose_results
from effdet.diagnosis.doctor.exif import exif_checks, stored_boxes
from effdet.diagnosis.doctor.prediction_checks import image_checks, prediction_checks, sample, truth_check
from effdet.diagnosis.doctor.quick import quick_diagnosis
from effdet.diagnosis.doctor.scoring import average_precision, classless_precision, pooled_precision, select
from effdet.diagnosis.doctor.verdict import Check, first_jump
from effdet.evaluation.accuracy import AccuracyEvaluator
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.matching import Predictions
from effdet.structures import Detections

NAMES = ("disc", "frame", "stripes", "cross")
INPUT = (320, 512)


def make_table(images=24, classes=4, seed=0, crowd=0.0):
    """Images of two sizes with 3 to 6 objects that do not overlap."""
    rng = np.random.default_rng(seed)
    sizes, boxes, labels, counts = [], [], [], []
    for _ in range(images):
        height, width = ((240, 400), (300, 280))[int(rng.integers(2))]
        count = int(rng.integers(3, 7))
        cells = rng.permutation(12)[:count]
        for cell in cells:
            top, left = cell // 4 * height / 3, cell % 4 * width / 4
            side = rng.uniform(0.4, 0.9, 2) * (height / 3, width / 4)
            y, x = (top, left) + rng.uniform(0, 1, 2) * ((height / 3, width / 4) - side)
            boxes.append((x, y, x + side[1], y + side[0]))
            labels.append(int(rng.integers(classes)))
        sizes.append((height, width))
        counts.append(count)
    boxes = np.array(boxes, np.float32)
    return Annotations(
        source=Path("drawn.json"),
        image_folder=Path("."),
        file_names=np.array([f"scene{row:03}.png" for row in range(images)]),
        labels=np.array(labels, np.int64),
        label_map=LabelMap(NAMES[:classes], tuple(range(1, classes + 1))),
        image_ids=np.arange(images) * 3 + 7,
        sizes=np.array(sizes, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        crowd=rng.random(len(boxes)) < crowd,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64),
        difficult=np.zeros(len(boxes), bool),
    )


def predict(table, seed=1):
    """Boxes near most objects, some with a wrong class, and boxes without an object."""
    rng = np.random.default_rng(seed)
    owners = table.image_of_label()
    hit = rng.random(len(owners)) < 0.85
    boxes = table.boxes[hit] + rng.normal(0, 1.5, (hit.sum(), 4))
    labels = np.where(
        rng.random(hit.sum()) < 0.1, rng.integers(len(table.label_map), size=hit.sum()), table.labels[hit]
    )
    extra = rng.integers(len(table), size=30)
    corners = rng.uniform(0, 200, (30, 2))
    images = np.concatenate([owners[hit], extra])
    boxes = np.concatenate([boxes, np.concatenate([corners, corners + rng.uniform(10, 60, (30, 2))], 1)])
    labels = np.concatenate([labels, rng.integers(len(table.label_map), size=30)])
    scores = np.concatenate([rng.uniform(0.4, 1, hit.sum()), rng.uniform(0, 0.5, 30)])
    order = np.argsort(images, kind="stable")
    return select(with_areas(images, labels, boxes, scores), order)


def with_areas(images, labels, boxes, scores):
    return Predictions(images, labels, boxes, (boxes[:, 2:] - boxes[:, :2]).prod(1), scores)


def moved(predictions, boxes):
    return with_areas(predictions.images, predictions.labels, boxes, predictions.scores)


def scales(table, predictions, mode):
    """Input pixels per original pixel (horizontal, vertical, twice) for every prediction."""
    ratio = np.array(INPUT)[::-1] / table.sizes[predictions.images][:, ::-1]
    return np.tile(ratio if mode == "stretch" else np.repeat(ratio.min(1, keepdims=True), 2, 1), 2)


def padding(table, predictions):
    """Pixels of the original before an image that is centred in the input."""
    free = np.array(INPUT)[::-1] / scales(table, predictions, "pad")[:, :2] - table.sizes[predictions.images][:, ::-1]
    return np.tile(free / 2, 2)


def named(table, predictions, image_size=INPUT):
    checks = [*prediction_checks(table, predictions, image_size)]
    jump = first_jump([*checks, *image_checks(table, predictions, average_precision(table, predictions))])
    return None if jump is None else jump.change


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.fixture(scope="module")
def predictions(table):
    return predict(table)


def test_sound_predictions_have_no_fault(table, predictions):
    assert average_precision(table, predictions) > 0.3
    assert named(table, predictions) is None


def test_poor_predictions_have_no_fault(table):
    rng = np.random.default_rng(5)
    poor = predict(table, seed=2)
    poor = moved(poor, poor.boxes + rng.normal(0, 14, poor.boxes.shape))
    poor = poor._replace(scores=rng.random(len(poor.scores)))
    assert average_precision(table, poor) < 0.1
    assert named(table, poor) is None


@pytest.mark.parametrize("seed", range(8))
def test_random_boxes_have_no_fault(table, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 250, (400, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 90, (400, 2))], 1)
    chance = with_areas(rng.integers(len(table), size=400), rng.integers(4, size=400), boxes, rng.random(400))
    assert named(table, chance) is None


def relabel(order):
    return lambda table, own: own._replace(labels=np.array(order)[own.labels])


def rebox(change):
    return lambda table, own: moved(own, change(table, own, own.boxes))


SPOILED = {
    "labels -1": relabel([1, 2, 3, 0]),
    "labels +1": relabel([3, 0, 1, 2]),
    "classes in another order (2 of 4)": relabel([2, 1, 0, 3]),
    "classes in another order (4 of 4)": relabel([1, 0, 3, 2]),
    "x and y exchanged": rebox(lambda table, own, boxes: boxes[:, [1, 0, 3, 2]]),
    "width, height read as x2, y2": rebox(lambda table, own, boxes: np.c_[boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]),
    "x2, y2 read as width, height": rebox(lambda table, own, boxes: np.c_[boxes[:, :2], boxes[:, 2:] + boxes[:, :2]]),
    "centre read as corner": rebox(lambda table, own, boxes: boxes + np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2)),
    "corner read as centre": rebox(lambda table, own, boxes: boxes - np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2)),
    "centre, width, height read as corners": rebox(
        lambda table, own, boxes: np.c_[(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]]
    ),
    "coordinates of 0..1 read as pixels": rebox(
        lambda table, own, boxes: boxes / np.tile(table.sizes[own.images][:, ::-1], 2)
    ),
    "coordinates of 0..1 of the padded image": rebox(
        lambda table, own, boxes: boxes * scales(table, own, "pad") / np.tile(INPUT[::-1], 2)
    ),
    "scale not undone (padded image)": rebox(lambda table, own, boxes: boxes * scales(table, own, "pad")),
    "scale not undone (stretched image)": rebox(lambda table, own, boxes: boxes * scales(table, own, "stretch")),
    "scale and padding not undone (centred image)": rebox(
        lambda table, own, boxes: (boxes + padding(table, own)) * scales(table, own, "pad")
    ),
    "scale undone twice (padded image)": rebox(lambda table, own, boxes: boxes / scales(table, own, "pad")),
    "scale undone twice (stretched image)": rebox(lambda table, own, boxes: boxes / scales(table, own, "stretch")),
    "padded image undone as stretched": rebox(
        lambda table, own, boxes: boxes * scales(table, own, "pad") / scales(table, own, "stretch")
    ),
    "stretched image undone as padded": rebox(
        lambda table, own, boxes: boxes * scales(table, own, "stretch") / scales(table, own, "pad")
    ),
    "padding not subtracted": rebox(lambda table, own, boxes: boxes + padding(table, own)),
    "padding subtracted twice or without need": rebox(lambda table, own, boxes: boxes - padding(table, own)),
    "left and right exchanged": rebox(
        lambda table, own, boxes: np.c_[
            table.sizes[own.images][:, 1] - boxes[:, 2],
            boxes[:, 1],
            table.sizes[own.images][:, 1] - boxes[:, 0],
            boxes[:, 3],
        ]
    ),
    "top and bottom exchanged": rebox(
        lambda table, own, boxes: np.c_[
            boxes[:, 0],
            table.sizes[own.images][:, 0] - boxes[:, 3],
            boxes[:, 2],
            table.sizes[own.images][:, 0] - boxes[:, 1],
        ]
    ),
    "predictions given to the previous image": lambda table, own: own._replace(images=(own.images + 1) % len(table)),
    "predictions given to the next image": lambda table, own: own._replace(images=(own.images - 1) % len(table)),
    "x and y exchanged, and labels -1": lambda table, own: moved(
        own._replace(labels=(own.labels + 1) % 4), own.boxes[:, [1, 0, 3, 2]]
    ),
    "without classes": lambda table, own: own._replace(
        labels=np.random.default_rng(0).integers(4, size=len(own.labels))
    ),
}


@pytest.mark.parametrize("change", SPOILED)
def test_the_fault_of_spoiled_predictions_is_named(table, predictions, change):
    spoiled = SPOILED[change](table, predictions)
    assert named(table, spoiled) == change


@pytest.mark.parametrize("mode", ["padded", "stretched"])
def test_an_unknown_input_size_is_among_the_usual_ones(table, predictions, mode):
    sizes = table.sizes[predictions.images][:, ::-1]
    ratio = 640 / sizes
    scale = np.tile(ratio if mode == "stretched" else np.repeat(ratio.min(1, keepdims=True), 2, 1), 2)
    spoiled = moved(predictions, predictions.boxes * scale)
    assert named(table, spoiled, None) == f"scale not undone ({mode} image)"


def test_two_exchanged_classes_of_many_are_named():
    names = tuple(f"class {label}" for label in range(30))
    table = make_table(images=80, classes=4)
    labels = np.random.default_rng(0).integers(30, size=len(table.labels))
    table = Annotations(**{**vars(table), "labels": labels, "label_map": LabelMap(names, tuple(range(30)))})
    own = predict(table)
    order = np.arange(30)
    order[[3, 17]] = 17, 3
    jump = first_jump(list(prediction_checks(table, own._replace(labels=order[own.labels]), INPUT)))
    assert "class 3 stands for class 17, class 17 stands for class 3" in jump.cause


def test_faults_are_looked_for_without_the_sizes_of_the_images(table, predictions):
    unsized = Annotations(**{**vars(table), "sizes": np.zeros_like(table.sizes)})
    checks = list(prediction_checks(unsized, predictions, INPUT))
    assert [check.change for check in checks if check.value is None] != []
    assert first_jump(checks) is None
    assert named(unsized, SPOILED["x and y exchanged"](table, predictions)) == "x and y exchanged"


def evaluator_of(table, predictions):
    evaluator = CocoEvaluator(table)
    for row in range(len(table)):
        own = predictions.images == row
        evaluator.add(
            row,
            Detections(
                torch.from_numpy(predictions.boxes[own].astype(np.float32)),
                torch.from_numpy(predictions.scores[own].astype(np.float32)),
                torch.from_numpy(predictions.labels[own]),
            ),
        )
    return evaluator


def test_the_quick_diagnosis_is_silent_unless_ap_is_near_zero(table, predictions):
    assert quick_diagnosis(evaluator_of(table, predictions)) is None


def test_the_quick_diagnosis_is_one_sentence_with_both_values(table, predictions):
    sentence = quick_diagnosis(evaluator_of(table, SPOILED["labels -1"](table, predictions)), INPUT)
    expected = f"{average_precision(table, predictions):.1%}"
    assert sentence.startswith("the predicted labels are one too high, disc stands for cross")
    assert f"AP is {expected} with this undone instead of" in sentence


@pytest.mark.parametrize("offset", [0, 1])
def test_the_quick_diagnosis_of_a_classifier_looks_at_the_order_of_the_classes(offset):
    labels = torch.arange(12) % 4
    evaluator = AccuracyEvaluator(LabelMap(NAMES, (1, 2, 3, 4)), [f"{row}.jpg" for row in range(12)])
    evaluator.add(range(12), torch.nn.functional.one_hot((labels + offset) % 4, 4).float(), labels)
    sentence = quick_diagnosis(evaluator)
    if offset:
        assert sentence.startswith("the predicted labels are one too high, disc stands for cross")
        assert "top1 is 100.0% with this undone instead of 0.0%" in sentence
    else:
        assert sentence is None


def test_the_quick_diagnosis_without_predictions_or_objects(table):
    assert quick_diagnosis(CocoEvaluator(table)).startswith("there are no predictions for 24 images")
    empty = table.select(np.zeros(len(table.labels), bool))
    assert "have no objects" in quick_diagnosis(CocoEvaluator(empty))


def test_the_quick_diagnosis_points_to_the_doctor_where_predictions_say_nothing(table):
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 250, (200, 2))
    boxes = np.concatenate([corners, corners + 20], 1)
    chance = with_areas(rng.integers(24, size=200), rng.integers(4, size=200), boxes, rng.random(200))
    assert "`effdet doctor`" in quick_diagnosis(evaluator_of(table, chance))


def test_ap_of_flat_columns_is_that_of_the_evaluator(table, predictions):
    assert average_precision(table, predictions) == pytest.approx(
        evaluator_of(table, predictions).metrics()["AP"], abs=1e-5
    )


def test_with_one_class_pooled_and_classless_ap_are_ap():
    table = make_table(classes=1)
    own = predict(table)
    assert pooled_precision(table, own) == average_precision(table, own)
    assert classless_precision(table, own) == pytest.approx(average_precision(table, own), abs=0.02)


def test_the_truth_as_predictions_is_perfect_with_crowds(table):
    assert truth_check(make_table(crowd=0.3)) is None
    assert truth_check(table) is None


def test_more_objects_than_coco_counts_are_a_fault_of_the_evaluation():
    table = make_table(images=1)
    boxes = np.stack([np.arange(150) * 2, np.zeros(150), np.arange(150) * 2 + 2, np.full(150, 50)], 1).astype(
        np.float32
    )
    crowded = Annotations(
        **{
            **vars(table),
            "boxes": boxes,
            "labels": np.zeros(150, np.int64),
            "offsets": np.array([0, 150]),
            "crowd": np.zeros(150, bool),
            "difficult": np.zeros(150, bool),
            "areas": np.full(150, 100.0),
        }
    )
    assert "instead of 100%" in truth_check(crowded)


def test_a_sample_keeps_images_with_objects_and_their_predictions(table, predictions):
    few, own = sample(table, predictions, 5)
    assert len(few) == 5
    rows = [int(np.flatnonzero(table.image_ids == image)[0]) for image in few.image_ids]
    assert len(own.scores) == np.isin(predictions.images, rows).sum()
    assert set(own.images) <= set(range(5))


def test_of_checks_that_jump_the_first_nearly_best_is_named():
    def check(change, value, before=0.1, last=False):
        return Check(change, value, before, "", "", last=last)

    assert first_jump([check("a", 0.11), check("b", None)]) is None
    assert first_jump([check("half", 0.3), check("whole", 0.6), check("also", 0.61)]).change == "whole"
    assert first_jump([check("speculative", 0.9, last=True), check("a", 0.3)]).change == "a"
    assert first_jump([check("a", 0.1), check("b", 0.31, last=True), check("c", 0.9, last=True)]).change == "b"
    assert first_jump([check("confused", 0.29, last=True)]) is None
    assert not check("small", 0.04, 0.0).jumps
    assert not check("healthy", 0.7, 0.6).jumps


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turned_back_are_where_the_pixels_are_in_the_file(orientation):
    from PIL import Image, ImageOps

    upright = np.zeros((40, 60) if orientation < 5 else (60, 40), np.uint8)
    stored = np.zeros((40, 60), np.uint8)
    stored[5:12, 8:30] = 255
    picture = Image.fromarray(stored)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.info["exif"] = exif.tobytes()
    upright = np.asarray(ImageOps.exif_transpose(picture))
    rows, columns = np.nonzero(upright)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], float)
    back = stored_boxes(box, np.array([upright.shape]), np.array([orientation]))
    assert back.tolist() == [[8, 5, 30, 12]]


def test_boxes_annotated_without_the_exif_rotation_are_named(tmp_path):
    from PIL import Image

    table = make_table(images=6)
    rng = np.random.default_rng(0)
    for row, name in enumerate(table.file_names):
        height, width = table.sizes[row].tolist()
        picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        exif = picture.getexif()
        exif[0x0112] = 3 if row < 4 else 1
        picture.save(tmp_path / name, exif=exif)
    table = Annotations(**{**vars(table), "image_folder": tmp_path})
    own = predict(table)
    orientations = np.where(own.images < 4, 3, 1)
    upright = moved(own, stored_boxes(own.boxes, table.sizes[own.images], orientations))
    (check,) = exif_checks(table, upright)
    assert check.jumps
    assert check.change == "boxes without EXIF rotation (4 of 6 images)"
    (check,) = exif_checks(table, own)
    assert not check.jumps


def write_files(tmp_path, table, predictions, ids=None):
    """A COCO file of a table, and a results file of predictions."""
    content = {
        "images": [
            {"id": int(image), "file_name": str(name), "height": int(size[0]), "width": int(size[1])}
            for image, name, size in zip(table.image_ids, table.file_names, table.sizes, strict=True)
        ],
        "categories": [
            {"id": own, "name": name}
            for own, name in zip(table.label_map.category_ids, table.label_map.names, strict=True)
        ],
        "annotations": [
            {
                "id": row + 1,
                "image_id": int(table.image_ids[image]),
                "category_id": int(label) + 1,
                "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            }
            for row, (image, label, box) in enumerate(
                zip(table.image_of_label(), table.labels, table.boxes, strict=True)
            )
        ],
    }
    rows = [
        {
            "image_id": int(table.image_ids[image]),
            "category_id": int(label) + 1,
            "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]],
            "score": score,
        }
        for image, label, box, score in zip(
            predictions.images, predictions.labels, predictions.boxes.tolist(), predictions.scores.tolist(), strict=True
        )
    ]
    for row in rows:
        row.update(ids(row) if ids else {})
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps(rows))
    return truth, results


def test_sound_results_have_no_fault(tmp_path, table, predictions):
    diagnosis = diagnose_results(*write_files(tmp_path, table, predictions))
    assert diagnosis.healthy
    assert diagnosis.sentence.startswith("no fault found: AP is ")
    assert diagnosis.facts == ()


ID_FAULTS = {
    "category_id in the predictions is not the annotations' id but the number of the class, from 0": lambda row: {
        "category_id": row["category_id"] - 1
    },
    "image_id in the predictions is not the annotations' id but the number of the image, from 1": lambda row: {
        "image_id": (row["image_id"] - 7) // 3 + 1
    },
    "boxes (x1, y1, x2, y2) were read as (x, y, width, height)": lambda row: {
        "bbox": [*row["bbox"][:2], row["bbox"][0] + row["bbox"][2], row["bbox"][1] + row["bbox"][3]]
    },
    "x and y of the boxes are exchanged": lambda row: {"bbox": [row["bbox"][place] for place in (1, 0, 3, 2)]},
}


@pytest.mark.parametrize("cause", ID_FAULTS)
def test_the_fault_of_a_results_file_is_named(tmp_path, table, predictions, cause):
    diagnosis = diagnose_results(*write_files(tmp_path, table, predictions, ID_FAULTS[cause]))
    assert not diagnosis.healthy
    assert diagnosis.sentence.startswith(cause)


def test_file_names_are_image_ids_too(tmp_path, table, predictions):
    name_of = dict(zip(table.image_ids.tolist(), table.file_names.tolist(), strict=True))
    files = write_files(tmp_path, table, predictions, lambda row: {"image_id": name_of[row["image_id"]].split(".")[0]})
    assert diagnose_results(*files).healthy


def test_results_of_other_images_are_counted(tmp_path, table, predictions):
    files = write_files(tmp_path, table, predictions, lambda row: {"image_id": row["image_id"] + 10_000})
    diagnosis = diagnose_results(*files)
    assert not diagnosis.healthy
    count = len(predictions.scores)
    assert diagnosis.sentence.startswith(f"{count} of {count} predictions left out")


def test_ids_of_hundreds_of_digits_are_unknown_ones(tmp_path, table, predictions):
    truth, results = write_files(tmp_path, table, predictions)
    rows = json.loads(results.read_text())
    rows[0]["image_id"], rows[1]["category_id"] = 10**400, 10**400
    results.write_text(json.dumps(rows))
    facts = " ".join(diagnose_results(truth, results).facts)
    assert "do not have their image_id" in facts
    assert "do not have their category_id" in facts
