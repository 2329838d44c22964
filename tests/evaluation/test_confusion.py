import csv
import runpy
from pathlib import Path

import numpy as np
import pytest

from effdet.evaluation.confusion import confusion, write_detector_confusion
from effdet.evaluation.confusion_file import confusion_matrix
from effdet.evaluation.matching import match

SMALL = runpy.run_path(str(Path(__file__).with_name("small_data.py")))
IMAGES, CLASSES, BOX = SMALL["IMAGES"], SMALL["CLASSES"], SMALL["BOX"]
objects_of, predictions_of, random_data, slow_iou = (
    SMALL[name] for name in ("objects_of", "predictions_of", "random_data", "slow_iou")
)


def matrix_of(objects, predictions, score_threshold=0.0):
    matches = match(objects, predictions, IMAGES, CLASSES)
    entries = confusion(objects, predictions, matches, score_threshold, CLASSES)
    return confusion_matrix(*entries, CLASSES + 1)


def slow_matrix(objects, predictions, score_threshold):
    """Objects given to detections of their class, then to any that are left, best scores first."""
    matrix = np.zeros((CLASSES + 1, CLASSES + 1), np.int64)
    free = {row for row in range(len(objects.labels)) if not objects.crowd[row]}
    rows = [row for row in range(len(predictions.scores)) if predictions.scores[row] >= score_threshold]
    rows.sort(key=lambda row: (-predictions.scores[row], row))

    def best(row, possible):
        near = [
            (slow_iou(predictions.boxes[row], objects.boxes[other], objects.crowd[other]), other)
            for other in possible
            if objects.images[other] == predictions.images[row]
        ]
        overlap, other = max(near, default=(0.0, None))
        return other if overlap >= 0.5 else None

    left = []
    for row in rows:
        label = predictions.labels[row]
        crowds = [other for other in range(len(objects.labels)) if objects.crowd[other]]
        found = best(row, [other for other in free if objects.labels[other] == label])
        if found is not None:
            matrix[label, label] += 1
            free.remove(found)
        elif best(row, [other for other in crowds if objects.labels[other] == label]) is None:
            left.append(row)
    for row in left:
        found = best(row, free)
        matrix[CLASSES if found is None else objects.labels[found], predictions.labels[row]] += 1
        free -= {found}
    for row in free:
        matrix[objects.labels[row], CLASSES] += 1
    return matrix


@pytest.mark.parametrize("seed", range(30))
def test_the_matrix_is_that_of_a_loop_over_the_detections(seed):
    objects, predictions = random_data(seed)
    for threshold in (0.0, 0.5):
        expected = slow_matrix(objects, predictions, threshold)
        assert matrix_of(objects, predictions, threshold).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_rows_count_every_object_once_and_the_diagonal_is_what_is_correct_for_ap(seed):
    objects, predictions = random_data(seed)
    matches = match(objects, predictions, IMAGES, CLASSES)
    matrix = matrix_of(objects, predictions)
    assert matrix[:-1].sum(axis=1).tolist() == np.bincount(objects.labels[~objects.crowd], minlength=CLASSES).tolist()
    assert np.trace(matrix) == np.count_nonzero(matches.correct[0, 0])
    assert matrix.sum() - matrix[:, -1].sum() == np.count_nonzero(~matches.ignored[0, 0])


def test_an_object_goes_to_a_detection_of_its_class_before_a_better_one_of_another():
    matrix = matrix_of(objects_of([(0, 0, BOX, False)]), predictions_of([(0, 1, BOX, 0.9), (0, 0, BOX, 0.8)]))
    assert matrix[0, 0] == matrix[CLASSES, 1] == 1
    assert matrix.sum() == 2


def test_a_wrong_class_and_a_duplicate_and_a_missed_object():
    objects = objects_of([(0, 0, BOX, False), (1, 2, BOX, False), (2, 3, BOX, False)])
    predictions = predictions_of([(0, 1, BOX, 0.9), (1, 2, BOX, 0.8), (1, 2, BOX, 0.7)])
    matrix = matrix_of(objects, predictions)
    assert matrix[0, 1] == matrix[2, 2] == matrix[CLASSES, 2] == matrix[3, CLASSES] == 1
    assert matrix.sum() == 4


def test_without_objects_all_detections_are_in_the_row_of_the_background():
    matrix = matrix_of(objects_of([]), predictions_of([(0, 1, BOX, 0.9), (3, 1, BOX, 0.9)]))
    assert matrix[CLASSES].tolist() == [0, 2, 0, 0, 0]
    assert matrix.sum() == 2
    assert matrix_of(objects_of([]), predictions_of([])).sum() == 0


def test_the_files_have_the_background_last(tmp_path):
    objects, predictions = random_data(3)
    matches = match(objects, predictions, IMAGES, CLASSES)
    entries = confusion(objects, predictions, matches, 0.3, CLASSES)
    write_detector_confusion(tmp_path, np.stack(entries, axis=1).tolist(), ("a", "b", "c", "d"))
    with (tmp_path / "confusion.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["true class", "a", "b", "c", "d", "background"]
    assert [row[0] for row in rows[1:]] == rows[0][1:]
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == confusion_matrix(*entries, CLASSES + 1).tolist()
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_matrix_without_entries_is_written_too(tmp_path):
    write_detector_confusion(tmp_path, [], ("a",))
    assert (tmp_path / "confusion.csv").read_text() == "true class,a,background\na,0,0\nbackground,0,0\n"
    assert (tmp_path / "confusion.png").exists()
