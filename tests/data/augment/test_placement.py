import cv2
import numpy as np
import pytest

from effdet.data.augment.placement import Placement, apply_placement, draw_placement
from effdet.data.augment.sample import Sample, visible_boxes
from effdet.data.images import decode_image
from effdet.data.letterbox import fitting_scale, letterbox

FILL = (10, 20, 30)
BLACK = (0, 0, 0)


def drawn(height, width, *boxes):
    """Black image with white boxes, and these."""
    image = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    return Sample(image, np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes)) + 7)


def rng(seed=0):
    return np.random.default_rng(seed)


def placed(sample, size, scale, source, flip=0.0, fill=BLACK, antialias=True):
    """A sample at a scale relative to the letterbox's, not reduced, and its placement."""
    original = sample.image.shape[:2]
    (fitting, _) = fitting_scale(original, size, "pad")
    placement = draw_placement(original, size, (scale * fitting,) * 2, flip, False, source)
    return apply_placement(sample, placement, size, fill, antialias), placement


def extents(image):
    """The box around what is white."""
    rows, columns = np.flatnonzero((image[..., 0] > 127).any(1)), np.flatnonzero((image[..., 0] > 127).any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) if len(rows) else None


def test_a_flip_mirrors_pixels_and_boxes_alike():
    flipped, placement = placed(drawn(40, 60, (5, 10, 20, 30)), (40, 60), 1, rng(), flip=1)
    assert placement.flipped
    assert flipped.boxes.tolist() == [[40, 10, 55, 30]]
    assert (flipped.image == drawn(40, 60, (40, 10, 55, 30)).image).all()
    twice, _ = placed(flipped, (40, 60), 1, rng(), flip=1)
    assert twice.boxes.tolist() == [[5, 10, 20, 30]]


def test_a_mirrored_image_stays_at_the_top_left():
    (image, boxes, _), _ = placed(drawn(40, 60, (0, 0, 60, 40)), (100, 100), 0.5, rng(), flip=1, fill=FILL)
    assert boxes.tolist() == [[0, 0, 50, 33]]
    assert (image[:33, :50] == 255).all()
    assert (image[33:] == FILL).all()
    assert (image[:, 50:] == FILL).all()


def test_the_flip_has_its_probability():
    source = rng()
    flips = sum(draw_placement((4, 6), (4, 6), (1, 1), 0.3, False, source).flipped for _ in range(2000))
    assert 0.26 < flips / 2000 < 0.34
    assert not draw_placement((4, 6), (4, 6), (1, 1), 0, False, source).flipped


def test_boxes_stay_on_their_pixels():
    source = rng()
    seen = 0
    for _ in range(300):
        height, width = source.integers(60, 500, 2)
        left, top = int(source.integers(0, width - 40)), int(source.integers(0, height - 40))
        box = (left, top, int(source.integers(left + 30, width)), int(source.integers(top + 30, height)))
        size = tuple(source.integers(100, 400, 2).tolist())
        scale = source.uniform(0.5, 2.0)
        (image, boxes, labels), placement = placed(drawn(height, width, box), size, scale, source, flip=0.5)
        assert image.shape == (*size, 3)
        if not len(boxes):
            continue
        seen += 1
        assert labels.tolist() == [7]
        extent = extents(image)
        if extent is None:
            assert (boxes[0, 2:] - boxes[0, :2]).min() < 2 * max(placement.scale)
            continue
        # Half a pixel of rounding, and half an original pixel where the crop starts inside the box.
        assert np.abs(extent - boxes[0]).max() <= 0.51 + max(placement.scale) / 2
    assert seen > 200


def test_the_scale_is_as_wanted_and_keeps_the_aspect():
    for scale in np.linspace(0.1, 2.0, 50):
        _, placement = placed(drawn(200, 300, (0, 0, 300, 200)), (256, 256), scale, rng())
        vertical, horizontal = placement.scale
        assert vertical == pytest.approx(horizontal, rel=0.03)
        assert horizontal == pytest.approx(scale * 256 / 300, rel=0.03)


@pytest.mark.parametrize("antialias", [False, True])
def test_at_a_scale_of_one_an_image_is_in_the_letterbox(antialias):
    image = rng().integers(0, 256, (70, 90, 3), np.uint8)
    for size in ((50, 80), (70, 90), (140, 180), (300, 100), (31, 200)):
        sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        (result, _, _), placement = placed(sample, size, 1, rng(), fill=FILL, antialias=antialias)
        wanted, scale = letterbox(image, size, FILL, antialias, "pad")
        assert (result == wanted).all()
        assert placement.scale == scale


def test_a_smaller_image_is_padded_below_and_right():
    (result, boxes, _), placement = placed(drawn(100, 100, (0, 0, 100, 100)), (200, 200), 0.5, rng(), fill=FILL)
    assert placement.scale == (1.0, 1.0)
    assert boxes.tolist() == [[0, 0, 100, 100]]
    assert (result[:100, :100] == 255).all()
    assert (result[100:] == FILL).all()
    assert (result[:, 100:] == FILL).all()


def test_a_larger_image_is_cropped_anywhere():
    image = np.zeros((100, 100, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(100)[:, None], np.arange(100)
    sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    corners = set()
    for seed in range(400):
        (result, *_), placement = placed(sample, (50, 50), 2, rng(seed))
        corners.add(tuple(result[0, 0, :2].tolist()))
        assert tuple(result[0, 0, :2].tolist()) == placement.corner
    rows, columns = {row for row, _ in corners}, {column for _, column in corners}
    assert min(rows) == min(columns) == 0
    assert max(rows) == max(columns) == 50
    assert len(corners) > 300


def test_boxes_outside_the_crop_are_dropped_with_their_labels():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 60, 60], [49.5, 0, 80, 40], [5, 5, 5.5, 30]], np.float32)
    visible, labels = visible_boxes(boxes, np.arange(4), (50, 50))
    assert visible.tolist() == [[0, 0, 10, 10], [20, 20, 50, 50]]
    assert labels.tolist() == [0, 1]


def test_an_image_without_objects_has_empty_boxes():
    (_, boxes, labels), _ = placed(drawn(30, 40), (64, 64), 1.5, rng(), flip=1)
    assert (boxes.shape, boxes.dtype) == ((0, 4), np.float32)
    assert labels.shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (3, 5), (1, 9000), (17, 4000)])
def test_degenerate_images_are_placed_too(shape):
    sample = drawn(*shape, (0, 0, shape[1], shape[0]))
    for seed in range(30):
        source = rng(seed)
        scale = source.uniform(0.1, 2) * fitting_scale(shape, (64, 96), "pad")[0]
        placement = draw_placement(shape, (64, 96), (scale, scale), 0.5, True, source)
        reduced = sample.image[:: placement.reduction, :: placement.reduction]
        result, boxes, _ = apply_placement(sample._replace(image=reduced), placement, (64, 96), FILL, True)
        assert result.shape == (64, 96, 3)
        assert (boxes >= 0).all()
        assert (boxes <= [96, 64, 96, 64]).all()


def test_inputs_are_never_changed():
    sample = drawn(100, 100, (10, 10, 90, 90))
    copies = [array.copy() for array in sample]
    for array in sample:
        array.setflags(write=False)
    for scale in (0.5, 2.0):
        for fresh in placed(sample, (100, 100), scale, rng(), flip=1)[0]:
            fresh[...] = 0
    unchanged, _ = placed(sample, (100, 100), 1, rng())  # nothing is done: the same pixels
    assert not unchanged.image.flags.writeable
    assert all((now == before).all() for now, before in zip(sample, copies, strict=True))


@pytest.mark.parametrize(
    ("scale", "reducible", "reduction"),
    [
        (1, True, 1),
        (0.26, True, 1),
        (0.25, True, 2),
        (0.13, True, 2),
        (0.125, True, 4),
        (0.07, True, 4),
        (0.0625, True, 8),
        (0.01, True, 8),
        (0.01, False, 1),
    ],
)
def test_images_are_reduced_as_far_as_their_scale_allows(scale, reducible, reduction):
    assert draw_placement((2000, 3000), (4000, 4000), (scale, scale), 0, reducible, rng()).reduction == reduction


def test_a_scale_a_little_over_a_quarter_by_rounding_counts_as_a_quarter():
    placement = draw_placement((427, 640), (160, 160), (0.25, 0.25), 0, True, rng())
    assert placement.resized == (107, 160)
    assert placement.reduction == 2


def test_reduced_images_are_cropped_at_whole_squares():
    corners = {
        (placement.corner, placement.reduction)
        for placement in (
            draw_placement((999, 1501), (64, 64), (0.1, 0.1), 0.5, True, rng(seed)) for seed in range(100)
        )
    }
    assert {reduction for _, reduction in corners} == {4}
    assert all(top % 4 == left % 4 == 0 for (top, left), _ in corners)
    assert len(corners) > 90


def encoded(image, suffix):
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_reduced_image_is_placed_like_the_whole_one(suffix):
    source = rng()
    differences, moves = [], []
    for _ in range(30):
        height, width = source.integers(150, 500, 2)
        coarse = source.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), np.uint8)
        image = cv2.resize(coarse, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
        size = tuple(source.integers(30, 120, 2).tolist())
        scale = tuple(np.exp(source.uniform(np.log(0.05), np.log(0.5)) + source.uniform(-0.3, 0.3, 2)).tolist())
        placement = draw_placement((int(height), int(width)), size, scale, 0.5, True, source)
        if min(placement.resized) < 8:
            continue
        data = encoded(image, suffix)
        boxes = np.array([[30, 40, 140, 120]], np.float32)
        whole = Sample(decode_image(data, "x"), boxes, np.zeros(1, np.int64))
        reduced = whole._replace(image=decode_image(data, "x", placement.reduction))
        wanted = apply_placement(whole, placement._replace(reduction=1), size, FILL, True)
        result = apply_placement(reduced, placement, size, FILL, True)
        assert (result.boxes == wanted.boxes).all()
        differences.append(np.abs(result.image.astype(int) - wanted.image).mean())
        moved = np.roll(whole.image, (placement.reduction // 2,) * 2, (0, 1))  # by half a reduced pixel
        moved = apply_placement(whole._replace(image=moved), placement._replace(reduction=1), size, FILL, True).image
        moves.append(np.abs(moved.astype(int) - wanted.image).mean())
    assert len(differences) > 15
    assert np.mean(differences) < min(0.3 * np.mean(moves), 1)


def test_the_scale_of_a_placement_is_pixels_per_original_pixel():
    placement = Placement((100, 200), (0, 10), (50, 80), (25, 20), False, 2)
    assert placement.scale == (0.5, 0.25)
    reduced = drawn(100, 200, (10, 0, 90, 50))._replace(image=np.full((50, 100, 3), 255, np.uint8))
    sample = apply_placement(reduced, placement, (30, 30), FILL, True)
    assert sample.boxes.tolist() == [[0, 0, 20, 25]]
    assert (sample.image[:25, :20] == 255).all()
    assert (sample.image[25:] == FILL).all()
