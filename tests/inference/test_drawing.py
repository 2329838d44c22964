import itertools

import numpy as np
import pytest
import torch

from effdet.inference.drawing import colour_of, draw_detections
from effdet.structures import Detections


def detections(boxes, scores=None, labels=None, names=("cell", "traffic light", "dog")):
    number = len(boxes)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(number, 4),
        torch.tensor(scores or [0.9] * number),
        torch.tensor(labels or [0] * number, dtype=torch.int64),
        names,
    )


def test_the_image_itself_is_left_as_it_is():
    image = np.full((100, 120, 3), 90, np.uint8)
    drawn = draw_detections(image, detections([[20, 30, 80, 90]]))
    assert (image == 90).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn != 90).any()


def test_no_detections_give_an_equal_image():
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    assert (draw_detections(image, detections([])) == image).all()


def test_the_box_has_the_colour_of_its_label():
    image = np.zeros((300, 300, 3), np.uint8)
    drawn = draw_detections(image, detections([[50, 100, 200, 250]], labels=[2]))
    assert tuple(drawn[250, 120]) == colour_of(2)
    assert tuple(drawn[175, 50]) == colour_of(2)
    assert tuple(drawn[175, 125]) == (0, 0, 0)


@pytest.mark.parametrize("label", [0, 1, 2, 5])
def test_the_text_is_read_on_a_ground_of_the_label_colour(label):
    names = tuple(f"name {i}" for i in range(6))
    drawn = draw_detections(
        np.full((300, 300, 3), 77, np.uint8), detections([[50, 100, 200, 250]], [0.5], [label], names)
    )
    ground = drawn[85:98, 50:90].reshape(-1, 3).astype(int)
    colour = np.array(colour_of(label))
    assert (ground == colour).all(1).mean() > 0.3
    luminance = np.array([0.299, 0.587, 0.114])
    assert np.abs((ground - colour) @ luminance).max() > 60


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (30, 400), (400, 30), (1500, 2000)])
@pytest.mark.parametrize("box", [[0, 0, 1, 1], [0, 0, 5000, 5000], [390, 20, 399, 29], [3, 3, 3, 3]])
def test_any_size_of_image_and_box_is_drawn(size, box):
    drawn = draw_detections(np.zeros((*size, 3), np.uint8), detections([box], names=("a rather long name of a class",)))
    assert drawn.shape == (*size, 3)


def test_a_box_at_the_top_has_its_text_inside_the_image():
    drawn = draw_detections(np.full((300, 300, 3), 77, np.uint8), detections([[200, 0, 299, 150]]))
    colour = np.array(colour_of(0))
    assert (drawn[3:15, 240:290] == colour).all(2).any()


def test_labels_without_names_are_drawn_as_numbers():
    image = np.zeros((100, 100, 3), np.uint8)
    assert (draw_detections(image, detections([[20, 30, 80, 90]], names=())) != 0).any()


def test_a_read_only_or_sliced_image_is_drawn():
    image = np.zeros((100, 200, 3), np.uint8)[:, ::2, ::-1]
    image.flags.writeable = False
    assert draw_detections(image, detections([[20, 30, 80, 90]])).any()


def test_colours_of_labels_are_far_apart():
    colours = np.array([colour_of(label) for label in range(20)])
    for first, second in itertools.combinations(colours, 2):
        assert np.abs(first - second).sum() > 30
    assert len({colour_of(label) for label in range(1000)}) > 950
