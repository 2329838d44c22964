import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from effdet.errors import DataError
from effdet.evaluation.average_precision import METRIC_NAMES
from effdet.evaluation.results_file import read_results
from effdet.evaluation.voc import METRIC_NAMES as VOC_NAMES

CASES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cases.py"))))


def written(folder, truth, results):
    """The paths of both files."""
    paths = folder / "truth.json", folder / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return paths


def small_truth():
    """Three images with a cat and a dog each; ids of images 10, 20, 30 and of classes 3, 7."""
    boxes = ([10, 10, 40, 40], [60, 20, 30, 50])
    return {
        "images": [
            {"id": image_id, "file_name": f"photos/{name}.jpg", "width": 128, "height": 96}
            for image_id, name in ((10, "a"), (20, "b"), (30, "c"))
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": number + 1,
                "image_id": 10 * (number // 2 + 1),
                "category_id": (3, 7)[number % 2],
                "bbox": boxes[number % 2],
                "area": 1600,
                "iscrowd": 0,
            }
            for number in range(6)
        ],
    }


def small_results(**changes):
    """The true boxes as detections with a low score among them; `changes` gives values of all rows."""
    rows = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.01 * row["id"]}
        for row in small_truth()["annotations"]
    ]
    return [{**row, **changes} for row in rows]


def read(folder, truth, results, voc=False):
    return read_results(*written(folder, truth, results), voc)


def refused(folder, truth, results):
    with pytest.raises(DataError) as caught:
        read(folder, truth, results)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{folder}/", "")


@pytest.mark.parametrize("block", range(4))
def test_metrics_are_those_of_pycocotools_with_the_same_files(tmp_path, block):
    for seed in range(2000 + 25 * block, 2025 + 25 * block):
        case = CASES.random_case(seed, exact=False)
        if not len(case.images):
            continue
        truth, results = CASES.coco_rows(case)
        expected = CASES.by_pycocotools(truth, results)
        evaluator, _ = read(tmp_path, truth, results)
        assert list(evaluator.metrics().values()) == pytest.approx(expected.stats.tolist(), abs=1e-12), seed
        difference = evaluator.tables().precision - expected.eval["precision"][..., -1].transpose(3, 2, 0, 1)
        assert np.abs(difference).max() < 1e-12, seed


def test_good_results_need_no_words(tmp_path):
    evaluator, notes = read(tmp_path, small_truth(), small_results())
    assert notes == []
    assert evaluator.metrics()["AP"] == pytest.approx(1)
    assert evaluator.label_map.names == ("cat", "dog")
    assert evaluator.annotations.sizes.tolist() == [[96, 128]] * 3
    assert evaluator.results()[0]["file_name"] == "photos/a.jpg"
    assert evaluator.notes(evaluator.metrics()) == []


# Which image a detection is of


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (lambda stem: f"photos/{stem}.jpg", "file name"),
        (lambda stem: f"{stem}.jpg", "file name without folder and suffix"),
        (lambda stem: stem, "file name without folder and suffix"),
        (lambda stem: f"crops\\{stem}.png", "file name without folder and suffix"),
    ],
)
@pytest.mark.parametrize("key", ["image_id", "file_name"])
def test_images_are_matched_by_file_name_where_the_ids_are_unknown(tmp_path, name, how, key):
    stems = {10: "a", 20: "b", 30: "c"}
    rows = [{**row, "image_id": f"x{row['image_id']}", key: name(stems[row["image_id"]])} for row in small_results()]
    evaluator, notes = read(tmp_path, small_truth(), rows)
    assert evaluator.metrics()["AP"] == pytest.approx(1)
    assert notes == [
        f"results.json: 6 detections matched to images by {how}, because the annotations do not have their image_id"
    ]


@pytest.mark.parametrize("write", [str, float, lambda own: f"00{own}"])
def test_ids_may_be_written_as_text_or_as_float(tmp_path, write):
    rows = [{**row, "image_id": write(row["image_id"])} for row in small_results()]
    evaluator, notes = read(tmp_path, small_truth(), rows)
    assert (evaluator.metrics()["AP"], notes) == (pytest.approx(1), [])
    rows = [{**row, "category_id": write(row["category_id"])} for row in small_results()]
    assert read(tmp_path, small_truth(), rows)[0].metrics()["AP"] == pytest.approx(1)


def test_a_name_that_several_images_have_matches_none(tmp_path):
    truth = small_truth()
    truth["images"][1]["file_name"] = "other/a.jpg"
    rows = [{**row, "image_id": "a"} if row["image_id"] == 20 else row for row in small_results()]
    evaluator, notes = read(tmp_path, truth, rows)
    assert len(evaluator.predicted().scores) == 4
    assert notes[0].startswith(
        "results.json: 2 detections of images that are not in the annotations left out, such as image_id 'a'; "
    )


def test_results_of_a_few_other_images_are_left_out_and_counted(tmp_path):
    rows = small_results()
    rows[0]["image_id"] = 99
    evaluator, notes = read(tmp_path, small_truth(), rows)
    assert notes == [
        "results.json: 1 detection of images that are not in the annotations left out, such as image_id 99; the "
        "annotations have image ids such as 10 and file names such as 'photos/a.jpg'"
    ]
    assert 0 < evaluator.metrics()["AP"] < 1


def test_results_of_other_images_are_refused(tmp_path):
    assert refused(tmp_path, small_truth(), small_results(image_id="elsewhere.jpg")) == (
        "results.json: 6 of 6 detections are of images that are not in the annotations, such as image_id "
        "'elsewhere.jpg'; the annotations have image ids such as 10 and file names such as 'photos/a.jpg'; give the "
        "annotation file of the images that were predicted, or write its image ids"
    )


def test_an_id_that_contradicts_the_file_name_is_noted(tmp_path):
    rows = [{**row, "file_name": "b.jpg"} for row in small_results()]
    _, notes = read(tmp_path, small_truth(), rows)
    assert notes == [
        "results.json: 4 detections with the image_id of one image and the file_name of another, such as 'b.jpg' for "
        "'photos/a.jpg'; the image_id is used"
    ]


# Bad rows


def test_unknown_categories_are_left_out_and_counted(tmp_path):
    rows = small_results()
    rows[0]["category_id"] = 99
    evaluator, notes = read(tmp_path, small_truth(), rows)
    assert notes == [
        "results.json: 1 detection with an unknown category_id left out, such as 99; the annotations have 3, 7"
    ]
    assert len(evaluator.predicted().scores) == 5


def test_labels_in_place_of_category_ids_are_refused(tmp_path):
    rows = [{**row, "category_id": (3, 7).index(row["category_id"])} for row in small_results()]
    assert refused(tmp_path, small_truth(), rows) == (
        "results.json: 6 of 6 detections have an unknown category_id, such as 0, 1; the annotations have 3, 7; write "
        "the ids of the annotation file, not labels counted from 0 or 1"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score", float("nan")),
        ("score", None),
        ("score", "high"),
        ("score", float("inf")),
        ("bbox", [float("nan"), 0, 5, 5]),
        ("bbox", [0, 0, float("inf"), 5]),
        ("bbox", [0, 0, None, 5]),
        ("bbox", [10**400, 0, 5, 5]),
        ("bbox", [0, 0, 1e308, 5]),
        ("score", -1e308),
    ],
)
def test_rows_with_nan_are_left_out_and_counted(tmp_path, key, value):
    rows = small_results()
    rows[0][key] = value
    evaluator, notes = read(tmp_path, small_truth(), rows)
    assert notes == ["results.json: 1 detection with NaN, Inf or a number beyond 1,000,000,000 left out"]
    assert len(evaluator.predicted().scores) == 5


def test_a_file_name_that_is_no_text_is_counted_and_the_id_is_used(tmp_path):
    rows = small_results()
    rows[0]["file_name"] = [["a"]]
    rows[1]["file_name"] = None
    evaluator, notes = read(tmp_path, small_truth(), rows)
    assert len(evaluator.predicted().scores) == len(rows)
    assert notes == ["results.json: 1 row with a file_name that is no text; the image_id is used"]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({}, "rows without image_id"),
        ([1, 3, 10, 10, 20, 20, 0.5], "an element is a list, not an object"),
        ({"image_id": 10, "category_id": 3, "score": 0.5}, "rows without bbox"),
        ({"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4]}, "rows without score"),
        ({"image_id": 10, "category_id": 3, "bbox": [1, 2, 3], "score": 0.5}, "bbox is not of four numbers"),
        ({"image_id": 10, "category_id": 3, "bbox": 7, "score": 0.5}, "bbox is not of four numbers"),
        (
            {"image_id": [10], "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5},
            "image_id or category_id is neither a number nor a text",
        ),
        (
            {"image_id": 10, "category_id": None, "bbox": [1, 2, 3, 4], "score": 0.5},
            "image_id or category_id is neither a number nor a text",
        ),
        (
            {"image_id": 10, "category_id": 3, "segmentation": {}, "score": 0.5},
            "rows have a mask (segmentation) and no bbox; write the boxes of the masks",
        ),
    ],
)
def test_incomplete_rows_are_left_out_and_counted_and_refused_where_all_are(tmp_path, row, cause):
    evaluator, notes = read(tmp_path, small_truth(), [*small_results(), row])
    assert notes == [f"results.json: 1 row left out: {cause}"]
    assert evaluator.metrics()["AP"] == pytest.approx(1)
    message = refused(tmp_path, small_truth(), [row, row])
    assert message.startswith(f"results.json: no detections with boxes: {cause}; expected a list of ")


def test_sizes_of_zero_or_below_match_nothing_and_are_counted(tmp_path):
    truth, rows = small_truth(), small_results()
    rows += [{**rows[0], "bbox": box, "score": 0.9} for box in ([10, 10, -5, 5], [10, 10, -5, -5], [0, 0, 0, 0])]
    evaluator, notes = read(tmp_path, truth, rows)
    assert notes == ["results.json: detections of no or negative size, which match nothing and count as wrong: 3"]
    expected = CASES.by_pycocotools(truth, rows)
    assert list(evaluator.metrics().values()) == pytest.approx(expected.stats.tolist(), abs=1e-12)


def test_repeated_rows_are_counted(tmp_path):
    rows = small_results()
    evaluator, notes = read(tmp_path, small_truth(), [*rows, rows[0], rows[0], {**rows[1], "score": 0.5}])
    assert notes == ["results.json: detections that repeat another exactly, which count as wrong: 2"]
    assert len(evaluator.predicted().scores) == 9


def test_corners_and_fractions_in_place_of_sizes_are_questioned(tmp_path):
    def with_boxes(change):
        return [{**row, "bbox": change(*row["bbox"])} for row in small_results()]

    corners = with_boxes(lambda x, y, w, h: [x + 60, y + 40, x + 60 + w, y + 40 + h])
    assert read(tmp_path, small_truth(), corners)[1] == [
        "results.json: detections that extend beyond their images: 6 of 6; bbox is expected as [x, y, width, height], "
        "not as two corners"
    ]
    fractions = with_boxes(lambda x, y, w, h: [x / 128, y / 96, w / 128, h / 96])
    assert read(tmp_path, small_truth(), fractions)[1] == [
        "results.json: no bbox has a number above 1; they are expected in pixels, not as fractions of the image"
    ]


def test_a_confidence_threshold_is_noted(tmp_path):
    assert read(tmp_path, small_truth(), small_results(score=0.25))[1] == [
        "results.json: the lowest score is 0.25; a confidence threshold lowers AP, use 0.001 for an evaluation"
    ]


def test_huge_ids_are_ids(tmp_path):
    truth, rows = small_truth(), small_results()
    for image in truth["images"]:
        image["id"] += 10**25
    for row in (*truth["annotations"], *rows):
        row["image_id"] += 10**25
    evaluator, notes = read(tmp_path, truth, rows)
    assert (evaluator.metrics()["AP"], notes) == (pytest.approx(1), [])
    rows[0]["image_id"] = 10**30
    assert len(read(tmp_path, truth, rows)[1]) == 1


# Files that hold something else


EXPECTED = 'expected a list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", f"results.json: not valid JSON, it is empty; {EXPECTED}"),
        ("  \n", f"results.json: not valid JSON, it is empty; {EXPECTED}"),
        ('[{"image_id": 1,', "results.json: not valid JSON, line 1 column 17: expecting property name "),
        ("{}", f"results.json: holds one object with the keys nothing; {EXPECTED}"),
        ('{"annotations": []}', f"results.json: holds one object with the keys annotations; {EXPECTED}"),
        (
            '{"predictions": [], "info": {}}',
            f"results.json: holds one object with the keys predictions, info; {EXPECTED}",
        ),
        ("7", f"results.json: holds JSON of the type int; {EXPECTED}"),
        ('"a"', f"results.json: holds JSON of the type str; {EXPECTED}"),
        ("[" * 100_000, f"results.json: cannot be read as results: it is nested too deeply; {EXPECTED}"),
    ],
)
def test_another_content_is_named(tmp_path, content, message):
    assert refused(tmp_path, small_truth(), content).startswith(message)


def test_binary_and_missing_files_are_named(tmp_path):
    truth, results = written(tmp_path, small_truth(), [])
    results.write_bytes(b"\x80\x81\x82\x83")
    with pytest.raises(DataError, match=r"results.json: not a JSON text; expected a list"):
        read_results(truth, results)
    results.unlink()
    with pytest.raises(DataError, match=r"results.json: no such results file; check the path"):
        read_results(truth, results)
    with pytest.raises(DataError, match=r"nowhere.json: no such annotation file; check the path"):
        read_results(tmp_path / "nowhere.json", results)


def test_exchanged_files_are_named(tmp_path):
    assert "truth.json: not a COCO instances file: it is a list of results" in refused(
        tmp_path, small_results(), small_truth()
    )
    assert refused(tmp_path, small_truth(), small_truth()) == (
        f"results.json: holds annotations without scores, not results; are the two files exchanged? {EXPECTED}"
    )
    rows = small_truth()["annotations"]
    assert "rows without score (annotations have none: are the two files exchanged?)" in refused(
        tmp_path, small_truth(), rows
    )


def test_no_detections_give_zeros(tmp_path):
    evaluator, notes = read(tmp_path, small_truth(), [])
    assert notes == ["results.json: holds no detections"]
    metrics = evaluator.metrics()
    assert (metrics["AP"], metrics["AR100"], metrics["APl"]) == (0, 0, -1)


# Truth


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_truth_without_content_is_refused(tmp_path, key):
    message = refused(tmp_path, {**small_truth(), key: []}, small_results())
    assert message.startswith(f"truth.json: '{key}' is empty, so there is nothing to evaluate with")
    assert ("not that of a test set" in message) == (key == "annotations")
    truth = small_truth()
    del truth[key]
    assert refused(tmp_path, truth, small_results()).startswith("truth.json: not a COCO instances file: ")


def test_objects_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    truth = small_truth()
    good = truth["annotations"][0]
    truth["annotations"] += [
        {**good, "id": 11, "image_id": 99},
        {**good, "id": 12, "category_id": 99},
        {**good, "id": 13, "bbox": [1, 2, 3]},
        {**good, "id": 14, "bbox": None},
        {**good, "id": 15, "bbox": [float("nan"), 2, 3, 4]},
    ]
    evaluator, notes = read(tmp_path, truth, small_results())
    assert notes == [
        "truth.json: 1 object of images that the file does not list left out",
        "truth.json: 1 object of categories that the file does not list left out",
        "truth.json: 3 objects without a box of four numbers up to 1,000,000,000 left out",
    ]
    assert evaluator.metrics()["AP"] == pytest.approx(1)
    truth["annotations"] = truth["annotations"][-3:]
    assert refused(tmp_path, truth, small_results()) == (
        "truth.json: none of 3 objects can be used: they are without a box of four numbers up to 1,000,000,000"
    )


def test_objects_without_ids_count_and_are_noted(tmp_path):
    truth = small_truth()
    truth["annotations"][0]["id"] = 0
    del truth["annotations"][1]["id"]
    truth["annotations"][2]["id"] = truth["annotations"][3]["id"]
    evaluator, notes = read(tmp_path, truth, small_results())
    assert evaluator.metrics()["AP"] == pytest.approx(1)
    assert notes == [
        "truth.json: 3 objects without an id of its own above 0; all are counted here, but pycocotools, which knows "
        "objects by their ids, gives other metrics"
    ]


def test_areas_default_to_those_of_the_boxes(tmp_path):
    truth = small_truth()
    for row in truth["annotations"]:
        del row["area"], row["iscrowd"]
    evaluator, _ = read(tmp_path, truth, small_results())
    assert evaluator.truth().areas.tolist() == [1600, 1500] * 3
    assert not evaluator.truth().crowd.any()


def test_marks_of_difficult_objects_are_used_for_voc(tmp_path):
    truth = small_truth()
    evaluator, _ = read(tmp_path, truth, small_results())
    assert tuple(evaluator.metrics()) == METRIC_NAMES
    evaluator, _ = read(tmp_path, truth, small_results(), voc=True)
    assert tuple(evaluator.metrics()) == (*METRIC_NAMES, *VOC_NAMES)
    missed = [row for row in small_results() if row["image_id"] != 30]
    for key in ("difficult", "ignore"):
        truth = small_truth()
        for row in truth["annotations"][4:]:
            row[key] = 1
        assert read(tmp_path, truth, missed, voc=True)[0].metrics()["AP50_VOC2010"] == pytest.approx(1)
    assert tuple(read(tmp_path, truth, missed)[0].metrics()) == METRIC_NAMES  # `ignore` has other meanings too
