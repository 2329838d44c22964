import itertools

import numpy as np
import pytest

from effdet.report.boxes import color_of, draw_boxes, draw_lines


def draw(image, boxes, label=0, text="cell 0.90"):
    """An image with boxes of one class."""
    return draw_boxes(image, boxes, [label] * len(boxes), [text] * len(boxes))


def test_the_image_itself_is_left_as_it_is():
    image = np.full((100, 120, 3), 90, np.uint8)
    drawn = draw(image, [[20, 30, 80, 90]])
    assert (image == 90).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn != 90).any()


def test_no_detections_give_an_equal_image():
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    assert (draw(image, []) == image).all()


def test_the_box_has_the_color_of_its_label():
    image = np.zeros((300, 300, 3), np.uint8)
    drawn = draw(image, [[50, 100, 200, 250]], label=2)
    assert tuple(drawn[250, 120]) == color_of(2)
    assert tuple(drawn[175, 50]) == color_of(2)
    assert tuple(drawn[175, 125]) == (0, 0, 0)


@pytest.mark.parametrize("label", [0, 1, 2, 5])
def test_the_text_has_contrast_on_a_background_of_the_label_color(label):
    drawn = draw(np.full((300, 300, 3), 77, np.uint8), [[50, 100, 200, 250]], label, f"name {label} 0.50")
    background = drawn[85:98, 50:90].reshape(-1, 3).astype(int)
    color = np.array(color_of(label))
    assert (background == color).all(1).mean() > 0.3
    luminance = np.array([0.299, 0.587, 0.114])
    assert np.abs((background - color) @ luminance).max() > 60


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (30, 400), (400, 30), (1500, 2000)])
@pytest.mark.parametrize("box", [[0, 0, 1, 1], [0, 0, 5000, 5000], [390, 20, 399, 29], [3, 3, 3, 3]])
def test_any_size_of_image_and_box_is_drawn(size, box):
    drawn = draw(np.zeros((*size, 3), np.uint8), [box], text="a rather long name of a class 0.90")
    assert drawn.shape == (*size, 3)


def test_a_box_at_the_top_has_its_text_inside_the_image():
    drawn = draw(np.full((300, 300, 3), 77, np.uint8), [[200, 0, 299, 150]])
    color = np.array(color_of(0))
    assert (drawn[3:15, 240:290] == color).all(2).any()


@pytest.mark.parametrize("coordinate", [float("nan"), float("inf"), -float("inf")])
def test_boxes_that_are_not_finite_are_left_out(coordinate):
    image = np.full((100, 100, 3), 90, np.uint8)
    assert (draw(image, [[20, 30, coordinate, 90]]) == image).all()
    drawn = draw_boxes(image, [[20, 30, 80, coordinate], [20, 30, 80, 90]], [1, 0], ["b", "a"])
    assert (drawn == draw(image, [[20, 30, 80, 90]], text="a")).all()


def test_a_box_of_any_finite_size_is_drawn():
    assert draw(np.zeros((50, 60, 3), np.uint8), [[-1e30, 10, 3e38, 40]]).any()


def test_later_boxes_are_on_top():
    image, box = np.zeros((100, 100, 3), np.uint8), [20, 30, 80, 90]
    drawn = draw_boxes(image, [box, box], [0, 3], ["a", "b"])
    assert tuple(drawn[60, 20]) == color_of(3)


def test_a_read_only_or_sliced_image_is_drawn():
    image = np.zeros((100, 200, 3), np.uint8)[:, ::2, ::-1]
    image.flags.writeable = False
    assert draw(image, [[20, 30, 80, 90]]).any()


def test_colors_of_labels_are_far_apart():
    colors = np.array([color_of(label) for label in range(20)])
    for first, second in itertools.combinations(colors, 2):
        assert np.abs(first - second).sum() > 30
    assert len({color_of(label) for label in range(1000)}) > 950


# Lines of text

LONG = "a name of a class that is far longer than names of classes are wont to be"


def lines(names=("cell", "traffic light", "dog", "lorry", "pig"), scores=(0.6, 0.2, 0.1, 0.05, 0.01)):
    return [f"{score:.2f} {name}" for score, name in zip(scores, names, strict=False)]


def lines_in(drawn):
    """How many lines of bright ink there are in a picture that was grey."""
    inked = (drawn.min(axis=2) > 120).any(axis=1).astype(int)
    return int((np.diff(inked, prepend=0) == 1).sum())


def changed(drawn, grey):
    """Height and width of the area at the top left that is no longer grey."""
    rows, columns = np.nonzero((drawn != grey).any(axis=2))
    return int(rows.max()) + 1, int(columns.max()) + 1


def test_classes_leave_the_image_itself_as_it_is():
    image = np.full((100, 120, 3), 90, np.uint8)
    image.flags.writeable = False
    drawn = draw_lines(image, lines())
    assert (image == 90).all()
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)


def test_no_classes_give_an_equal_image():
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    assert (draw_lines(image, []) == image).all()


@pytest.mark.parametrize("size", [(100, 100), (480, 640), (640, 120), (1500, 2000), (3000, 4000)])
def test_there_is_a_line_for_each_class(size):
    for number in (1, 2, 5):
        drawn = draw_lines(np.full((*size, 3), 90, np.uint8), lines(("cell", "car", "cod", "cat", "cow")[:number]))
        assert lines_in(drawn) == number


@pytest.mark.parametrize("size", [(300, 400), (3000, 4000)])
def test_text_grows_with_the_image(size):
    high, wide = changed(draw_lines(np.full((*size, 3), 90, np.uint8), lines()), 90)
    assert 0.05 < high / size[0] < 0.3
    assert 0.1 < wide / size[1] < 0.5


def test_the_background_of_lines_is_transparent():
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    drawn = draw_lines(image, lines(("a", LONG)))
    background = drawn[2:12, 60:200].astype(float)  # beside the short first line
    assert background == pytest.approx(image[2:12, 60:200] * 0.4, abs=1)
    assert (drawn[100:] == image[100:]).all()


def test_the_best_class_stands_on_top():
    names = ("a rather long name", "x")
    drawn = draw_lines(np.full((300, 400, 3), 90, np.uint8), lines(names))
    inked = drawn.min(axis=2) > 120
    high = changed(drawn, 90)[0]
    width = [np.nonzero(half.any(axis=0))[0].max() for half in (inked[: high // 2], inked[high // 2 : high])]
    assert width[0] > 2 * width[1]


@pytest.mark.parametrize("size", [(100, 100), (60, 400), (300, 90), (700, 900)])
def test_long_names_are_cut_at_the_edge_of_the_image(size):
    drawn = draw_lines(np.full((*size, 3), 90, np.uint8), lines((3 * LONG, "b", LONG)))
    assert changed(drawn, 90)[1] <= size[1]
    assert changed(drawn, 90)[1] > 0.8 * size[1]
    assert lines_in(drawn) == 3


def test_a_long_name_does_not_make_the_text_tiny():
    image = np.full((3000, 4000, 3), 90, np.uint8)
    short, long = (changed(draw_lines(image, lines((name, "b"))), 90) for name in ("a", 9 * LONG))
    assert long[0] > 0.6 * short[0]


def test_the_last_classes_are_left_out_of_a_low_image():
    drawn = draw_lines(np.full((32, 400, 3), 90, np.uint8), lines())
    assert lines_in(drawn) == 2


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (8, 8), (20, 20)])
def test_classes_are_drawn_on_an_image_of_any_size(size):
    assert draw_lines(np.full((*size, 3), 90, np.uint8), lines((LONG,) * 5)).shape == (*size, 3)
