import numpy as np
import pytest
import torch

from effdet.report.boxes import color_of
from effdet.report.sheet import (
    COLUMNS,
    GAP,
    SIDE,
    contact_sheet,
    draw_classification_batch,
    draw_detection_batch,
    stack_sheets,
)
from effdet.structures import Detections, Target


def target(boxes, labels):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Target(boxes, torch.tensor(labels, dtype=torch.int64), 0, (96, 96), (1.0, 1.0))


def cell(sheet, number):
    """An image of a sheet of square images."""
    top, left = number // COLUMNS * (SIDE + GAP) + GAP, number % COLUMNS * (SIDE + GAP) + GAP
    return sheet[top : top + SIDE, left : left + SIDE]


def grey(count, size=(96, 96)):
    return torch.full((count, 3, *size), 90, dtype=torch.uint8)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (8, 8, 1), (9, 8, 2)])
def test_a_sheet_has_rows_of_eight(count, columns, rows):
    picture = np.zeros((20, 30, 3), np.uint8)
    sheet = contact_sheet([picture] * count)
    assert sheet.shape == (rows * (20 + GAP) + GAP, columns * (30 + GAP) + GAP, 3)
    assert (sheet == 0).all(axis=2).sum() == count * 20 * 30
    assert (sheet[:GAP] == 255).all()


def test_images_of_several_sizes_are_on_one_sheet():
    sheet = contact_sheet([np.zeros((20, 10, 3), np.uint8), np.zeros((10, 30, 3), np.uint8)])
    assert sheet.shape == (20 + 2 * GAP, 2 * 30 + 3 * GAP, 3)


def test_no_images_are_an_empty_sheet():
    assert (contact_sheet([]) == 255).all()
    assert (draw_detection_batch(grey(0), []) == 255).all()


def test_sheets_are_stacked_with_one_gap_between_them():
    wide, narrow = (contact_sheet([np.zeros((20, 30, 3), np.uint8)] * count) for count in (3, 2))
    stacked = stack_sheets([wide, narrow])
    assert stacked.shape == (2 * (20 + GAP) + GAP, 3 * (30 + GAP) + GAP, 3)
    assert (stacked[: len(wide)] == wide).all()
    assert (stacked[len(wide) :, : narrow.shape[1]] == narrow[GAP:]).all()
    assert (stacked[len(wide) :, narrow.shape[1] :] == 255).all()


def test_every_image_has_its_boxes_in_the_colors_of_their_classes():
    targets = [target([[24, 48, 72, 72]], [2]), target([], []), target([[12, 48, 36, 84]], [0])]
    sheet = draw_detection_batch(grey(3), targets, ("cell", "dog", "cow"))
    assert tuple(cell(sheet, 0)[4 * 60, 4 * 24]) == color_of(2)
    assert (cell(sheet, 1) == 90).all()
    assert tuple(cell(sheet, 2)[4 * 60, 4 * 12]) == color_of(0)


def test_boxes_follow_the_scale_of_the_sheet():
    images = grey(1, (2 * SIDE, SIDE))
    sheet = draw_detection_batch(images, [target([[100, 400, 300, 600]], [0])], ("cell",))
    assert sheet.shape == (SIDE + 2 * GAP, SIDE // 2 + 2 * GAP, 3)
    assert tuple(sheet[GAP + 250, GAP + 50]) == color_of(0)


def test_detections_are_drawn_like_targets():
    wanted = target([[24, 48, 72, 72]], [1])
    detections = Detections(wanted.boxes, torch.ones(1), wanted.labels)
    assert (draw_detection_batch(grey(1), [wanted]) == draw_detection_batch(grey(1), [detections])).all()


def test_a_batch_with_nan_boxes_is_drawn_without_them():
    sound, nan = [24, 48, 72, 72], [float("nan"), 0, 10, 10]
    expected = draw_detection_batch(grey(1), [target([sound], [1])], ("a", "b"))
    assert (draw_detection_batch(grey(1), [target([nan, sound], [0, 1])], ("a", "b")) == expected).all()


def test_labels_without_names_are_drawn_as_numbers():
    targets = [target([[24, 48, 72, 72]], [7])]
    numbered = draw_detection_batch(grey(1), targets, ("a", "b"))
    assert (numbered == draw_detection_batch(grey(1), targets, "01234567")).all()
    assert (numbered != draw_detection_batch(grey(1), targets, "abcdefgh")).any()


def test_every_image_has_its_class_and_mixed_ones_have_two():
    one, two = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.3, 0.0, 0.7])
    names = ("cat", "dog", "cow")
    sheet = draw_classification_batch(grey(3), torch.stack([one, two, one]), names)
    high = [np.nonzero((cell(sheet, number) != 90).any(axis=(1, 2)))[0].max() for number in range(3)]
    assert high[0] == high[2]
    assert high[1] > 1.5 * high[0]
    assert (cell(sheet, 0)[SIDE // 2 :] == 90).all()


def test_small_probabilities_are_not_written():
    names = ("cat", "dog")
    sheets = [draw_classification_batch(grey(1), torch.tensor([[1 - p, p]]), names) for p in (0.0, 0.004)]
    assert (sheets[0] == sheets[1]).all()


def test_no_class_at_all_leaves_the_image_as_it_is():
    assert (cell(draw_classification_batch(grey(1), torch.zeros(1, 3)), 0) == 90).all()
