import numpy as np
import pytest

from effdet.data.images import read_image
from effdet.report.confusion import _fractions, draw_confusion


def entries(matrix):
    """Rows, columns and counts of the entries that are not zero."""
    rows, columns = np.nonzero(matrix)
    return rows, columns, matrix[rows, columns]


def picture(tmp_path, matrix, names=None):
    path = tmp_path / "confusion.png"
    draw_confusion(path, *entries(matrix), names or [f"class {label}" for label in range(len(matrix))])
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]
    return read_image(path)


def diagonal(classes, count=10):
    return np.eye(classes, dtype=np.int64) * count


@pytest.mark.parametrize("classes", [1, 2, 3, 12, 30, 31, 250, 1200])
def test_a_picture_has_a_bearable_size_and_a_dark_diagonal(tmp_path, classes):
    drawn = picture(tmp_path, diagonal(classes))
    assert 300 < min(drawn.shape[:2]) <= max(drawn.shape[:2]) < 1800
    assert (drawn.sum(axis=2) < 3 * 100).any()
    assert (drawn == 255).any()


def test_a_cell_is_a_fraction_of_its_row():
    matrix = np.array([[1, 8, 91], [100, 800, 9100], [0, 0, 0]])
    expected = [[0.01, 0.08, 0.91], [0.01, 0.08, 0.91], [0, 0, 0]]
    assert _fractions(*entries(matrix), 3, 3) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(("classes", "cells"), [(6, 3), (7, 3), (1000, 400)])
def test_a_cell_of_several_classes_is_their_mean(classes, cells):
    matrix = np.random.default_rng(0).integers(0, 5, (classes, classes))
    matrix[classes // 2] = 0  # a class without images does not count
    group = np.arange(classes) * cells // classes
    images = matrix.sum(axis=1)
    expected = np.zeros((cells, cells))
    for row in range(cells):
        own = matrix[(group == row) & (images > 0)]
        fractions = (own / own.sum(axis=1, keepdims=True)).mean(axis=0)
        expected[row] = [fractions[group == column].sum() for column in range(cells)]
    assert _fractions(*entries(matrix), classes, cells) == pytest.approx(expected)


def test_names_and_counts_are_written_for_few_classes_only(tmp_path):
    few = picture(tmp_path, diagonal(3, 10), ["a", "b", "c"])
    assert (few != picture(tmp_path, diagonal(3, 20), ["a", "b", "c"])).any()
    assert (few != picture(tmp_path, diagonal(3, 10), ["a", "b", "d"])).any()
    names = [str(label) for label in range(31)]
    many = picture(tmp_path, diagonal(31, 10), names)
    assert (many == picture(tmp_path, diagonal(31, 20), names[::-1])).all()


def test_long_empty_and_odd_names_leave_room_for_the_cells(tmp_path):
    drawn = picture(tmp_path, diagonal(3, 123456789), ["long " * 100, "", "plätt $x_1$ \\alpha"])
    assert max(drawn.shape) < 900


def test_control_characters_in_names_reach_no_warning(tmp_path, recwarn):
    picture(tmp_path, diagonal(2), ["a\x1b[31m\udcff", "b\u202e"])
    assert not [warning for warning in recwarn if "\x1b" in str(warning.message) or "\u202e" in str(warning.message)]


def test_no_images_are_drawn_too(tmp_path):
    assert picture(tmp_path, diagonal(3, 0)).any()


def test_thousands_of_classes_need_no_matrix_of_all_pairs(tmp_path):
    labels = np.arange(21841)
    draw_confusion(tmp_path / "a.png", labels, labels, np.ones_like(labels), [""] * len(labels))  # 3.8 GB as a matrix
    assert (read_image(tmp_path / "a.png").sum(axis=2) < 3 * 100).any()
