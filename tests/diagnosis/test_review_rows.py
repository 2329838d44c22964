from dataclasses import replace

import numpy as np
import pytest

from effdet.diagnosis.review.rows import LEAST_PROBABILITY, WORTH_A_LOOK, review_table

from .labelled_scenes import as_predictions, detections, overlap, scenes, spoiled


def right(rows, done):
    """Whether each row names an error that was made."""
    found = []
    for row in rows:
        made = [box for image, *box in done[row.kind] if image == row.image]
        found.append(any(overlap(row.box, box) > 0.5 for box in made))
    return np.array(found)


@pytest.fixture(scope="module")
def reviewed():
    """The rows of scenes with 20 missed, 20 misnamed and 10 spurious labels among 480, and these errors."""
    table = scenes()
    wrong, done = spoiled(table)
    return review_table(wrong, detections(table, found=0.995), "train"), done, wrong


@pytest.mark.parametrize(("kind", "made"), [("missed", 20), ("misnamed", 20), ("spurious", 10)])
def test_most_errors_have_a_row(reviewed, kind, made):
    rows, done, _ = reviewed
    assert right([row for row in rows if row.kind == kind], done).sum() >= 0.8 * made


def test_most_rows_that_are_worth_a_look_are_errors(reviewed):
    rows, done, _ = reviewed
    worth = [row for row in rows if row.probability >= WORTH_A_LOOK]
    assert right(worth, done).mean() > 0.8
    assert sum(row.probability for row in worth) == pytest.approx(right(worth, done).sum(), rel=0.3)


def test_rows_fall_in_probability_and_none_is_below_the_least(reviewed):
    probabilities = [row.probability for row in reviewed[0]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[-1] >= LEAST_PROBABILITY


def test_a_row_names_box_classes_and_place(reviewed):
    rows, _, table = reviewed
    for row in rows:
        assert row.file_name == table.file_name(row.image)
        if row.kind == "missed":
            assert (row.given, row.number) == (None, None)
            assert row.proposed in row.reason
            continue
        place = int(table.offsets[row.image]) + row.number - 1
        assert row.box == pytest.approx(table.boxes[place].tolist(), abs=0.01)
        assert row.given == table.label_map.names[table.labels[place]]
        assert (row.proposed is None) == (row.kind == "spurious")
        assert row.given in row.reason


def test_no_box_has_two_rows(reviewed):
    places = [(row.image, row.number) for row in reviewed[0] if row.number is not None]
    assert len(places) == len(set(places))


def test_the_same_input_gives_the_same_rows(reviewed):
    rows, _, table = reviewed
    assert review_table(table, detections(scenes(), found=0.995), "train") == rows


def test_the_order_of_the_detections_does_not_matter(reviewed):
    rows, _, table = reviewed
    predictions = detections(scenes(), found=0.995)
    order = np.random.default_rng(0).permutation(len(predictions.scores))
    assert review_table(table, type(predictions)(*(column[order] for column in predictions)), "train") == rows


def test_right_labels_give_few_rows():
    table = scenes()
    worth = [row for row in review_table(table, detections(table), "train") if row.probability >= WORTH_A_LOOK]
    assert len(worth) <= 0.02 * len(table.labels)


def test_a_model_that_detects_nothing_says_nothing():
    table = scenes(num_images=5)
    empty = as_predictions([], [], [], [])
    assert not [row for row in review_table(table, empty, "train") if row.probability >= WORTH_A_LOOK]


def test_a_model_that_misses_half_of_the_objects_does_not_call_them_spurious():
    table = scenes()
    rows = review_table(table, detections(table, found=0.5), "train")
    assert not [row for row in rows if row.kind == "spurious" and row.probability >= WORTH_A_LOOK]


def test_images_without_labels_can_be_reviewed():
    table = scenes(num_images=4)
    bare = table.select(np.zeros(len(table.labels), bool))
    rows = review_table(bare, detections(table), "train")
    assert {row.kind for row in rows} == {"missed"}
    assert max(row.probability for row in rows) < WORTH_A_LOOK  # nothing says how often this model is right


def test_of_one_class_nothing_is_misnamed():
    table = scenes(names=("cat",))
    wrong, done = spoiled(scenes(names=("cat",)), misnamed=0)
    rows = review_table(wrong, detections(table, false=1), "val")
    assert {row.kind for row in rows} <= {"missed", "spurious"}
    assert right(rows, done).sum() >= 20
    assert {row.split for row in rows} == {"val"}


def test_detections_inside_of_a_crowd_are_not_missed_objects():
    table = scenes()
    wrong, done = spoiled(table, missed=20, misnamed=0, spurious=0)
    image, *box = next(iter(done["missed"]))
    predictions = detections(table)
    before = [row for row in review_table(wrong, predictions, "train") if row.image == image and row.kind == "missed"]
    assert any(overlap(row.box, box) > 0.5 for row in before)
    rows = wrong.rows(image)
    boxes, crowd = wrong.boxes.copy(), wrong.crowd.copy()
    boxes[rows.start], crowd[rows.start] = (0, 0, 400, 400), True
    crowded = replace(wrong, boxes=boxes, crowd=crowd)
    after = [row for row in review_table(crowded, predictions, "train") if row.image == image]
    assert not [row for row in after if row.kind == "missed"]
    assert not [row for row in after if row.number == 1]


def test_two_classes_detected_at_one_place_are_one_missed_object():
    table = scenes()
    wrong, _ = spoiled(table, missed=30, misnamed=0, spurious=0)
    rows = [row for row in review_table(wrong, detections(table), "train") if row.kind == "missed"]
    for row in rows:
        others = [other for other in rows if other is not row and other.image == row.image]
        assert not [other for other in others if overlap(row.box, other.box) > 0.5]


def test_a_second_box_at_the_place_of_another_is_named():
    table = scenes()
    rows = table.rows(0)
    boxes, labels = table.boxes.copy(), table.labels.copy()
    boxes[rows.start], labels[rows.start] = boxes[rows.start + 1] + 2, labels[rows.start + 1]
    found = review_table(replace(table, boxes=boxes, labels=labels), detections(table), "train")
    double = [row for row in found if row.image == 0 and row.number in (1, 2)]
    assert [row.kind for row in double] == ["spurious"]
    assert "another box overlaps it by IoU 0.87" in double[0].reason


def test_images_of_unknown_size_can_be_reviewed():
    table = scenes(sizes=False)
    wrong, done = spoiled(table)
    assert right(review_table(wrong, detections(table), "train")[:30], done).mean() > 0.8
