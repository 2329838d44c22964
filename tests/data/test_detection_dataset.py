from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from effdet.config import DetectionAugment
from effdet.data.annotations import Annotations
from effdet.data.augment.placement import apply_placement, draw_placement
from effdet.data.augment.sample import Sample
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.images import decode_image
from effdet.data.label_map import LabelMap
from effdet.data.letterbox import fitting_scale, letterbox
from effdet.data.loader import train_batches
from effdet.data.train_order import Key, TrainOrder
from effdet.errors import DataError

SIZE = (128, 160)
FILL = (0, 0, 0)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
NOTHING_ELSE = {"horizontal_flip": 0.0, "scale_jitter": None}
EVERYTHING = DetectionAugment(
    photometric=0.5,
    rand_augment={"layers": 1},
    mosaic=0.5,
    copy_paste=0.5,
    mixup=0.5,
    random_erasing=0.5,
    scale_jitter=(0.5, 1.5),
)


def table(folder, images, boxes, crowd=()):
    """Images saved as files, with the boxes of each; image i has objects of label i, those of `crowd` images crowds."""
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"{index}.png"), image[..., ::-1])
    counts = [len(of_image) for of_image in boxes]
    labels = np.repeat(np.arange(len(images)), counts)
    return Annotations(
        source=folder,
        image_folder=folder,
        file_names=np.array([f"{index}.png" for index in range(len(images))]),
        image_ids=np.arange(len(images)),
        sizes=np.array([image.shape[:2] for image in images], np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.array([box for of_image in boxes for box in of_image], np.float32).reshape(-1, 4),
        labels=labels.astype(np.int64),
        crowd=np.isin(labels, crowd),
        areas=np.ones(len(labels)),
        difficult=np.zeros(len(labels), bool),
        label_map=LabelMap(tuple("abcdefg"), tuple(range(7))),
    )


def coloured(folder, count=5, **changes):
    """Black images, each with a rectangle of its own colour and its box."""
    images, boxes = [], []
    for index, (height, width) in enumerate([(100, 120), (120, 90), (90, 90), (60, 200), (150, 100)][:count]):
        box = (width // 4, height // 5, width // 4 * 3, height // 5 * 4)
        image = np.zeros((height, width, 3), np.uint8)
        image[box[1] : box[3], box[0] : box[2]] = COLOURS[index]
        images.append(image)
        boxes.append([box])
    return table(folder, images, boxes, **changes)


def noisy(folder, shapes):
    """Noise with 0, 1, 2, ... boxes."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    boxes = [
        [(0, 0, width / (1 + number), height) for number in range(index)]
        for index, (height, width) in enumerate(shapes)
    ]
    return table(folder, images, boxes)


def made(annotations, augment, seed=3, epochs=None, size=SIZE, mode="pad"):
    return DetectionDataset(annotations, size, FILL, True, mode, augment, seed, epochs)


def same(first, second):
    tensors = (first[0], second[0]), (first[1].boxes, second[1].boxes), (first[1].labels, second[1].labels)
    return all(torch.equal(one, other) for one, other in tensors) and first[1].scale == second[1].scale


def coloured_box(image, label):
    """The box around the pixels of a label's colour; None where there are none."""
    bright = image.permute(1, 2, 0).numpy() > 127
    rows, columns = np.nonzero((bright == (np.array(COLOURS[label]) > 127)).all(axis=2))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) if len(rows) else None


def together(target, label):
    """The box around all boxes of a label; None where there are none."""
    boxes = target.boxes[target.labels == label].numpy()
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]) if len(boxes) else None


@pytest.mark.parametrize("mode", ["pad", "stretch"])
def test_by_default_images_are_flipped_and_scaled_alone(tmp_path, mode):
    annotations = coloured(tmp_path)
    for row in range(5):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([3, 4, row])))
        original = tuple(annotations.sizes[row].tolist())
        factor, fitting = rng.uniform(0.1, 2.0), fitting_scale(original, SIZE, mode)
        placement = draw_placement(original, SIZE, (factor * fitting[0], factor * fitting[1]), 0.5, True, rng)
        image = decode_image((tmp_path / f"{row}.png").read_bytes(), "x", placement.reduction)
        scene = Sample(image, annotations.boxes[row : row + 1], np.array([row]))
        image, boxes, labels = apply_placement(scene, placement, SIZE, FILL, True)
        sample, target = made(annotations, DetectionAugment(), epochs=7, mode=mode)[4, row]
        assert (sample.permute(1, 2, 0).numpy() == image).all()
        assert (target.boxes.numpy() == boxes).all()
        assert target.labels.tolist() == labels.tolist()
        assert (target.index, target.size, target.scale) == (row, original, placement.scale)


@pytest.mark.parametrize("change", ["photometric", "mosaic", "copy_paste", "mixup", "random_erasing"])
def test_changes_that_never_happen_leave_the_other_draws_as_they_are(tmp_path, change):
    annotations = coloured(tmp_path)
    dataset, never = made(annotations, DetectionAugment()), made(annotations, DetectionAugment(**{change: 0.0}))
    always = made(annotations, DetectionAugment(**{change: 1.0}))
    assert all(same(dataset[0, row], never[0, row]) for row in range(5))
    assert not all(same(dataset[0, row], always[0, row]) for row in range(5))


@pytest.mark.parametrize("scales", [None, (0.5, 1.5)])
def test_the_boxes_of_a_mosaic_are_on_their_objects(tmp_path, scales):
    # With this seed no image shows twice, once as a sliver, which has no box.
    dataset = made(coloured(tmp_path), DetectionAugment(mosaic=1, scale_jitter=scales), seed=4)
    seen = 0
    for epoch in range(60):
        image, target = dataset[epoch, epoch % 5]
        for label in range(5):
            box, pixels = together(target, label), coloured_box(image, label)
            if pixels is None:
                assert box is None or (box[2:] - box[:2]).min() < 4
            elif box is not None:
                # Half a pixel of rounding, and half an original pixel, here at most 2.1, where a crop starts inside.
                assert np.abs(box - pixels).max() <= 1.6
                seen += 1
            else:
                assert (pixels[2:] - pixels[:2]).min() <= 2
    assert seen > 60


@pytest.mark.parametrize("change", ["copy_paste", "mixup"])
def test_the_boxes_of_two_combined_images_are_on_their_objects(tmp_path, change):
    annotations = coloured(tmp_path)
    dataset = made(annotations, DetectionAugment(**NOTHING_ELSE, **{change: 1}))
    alone = made(annotations, DetectionAugment(**NOTHING_ELSE))
    joined = 0
    for epoch in range(40):
        image, target = dataset[epoch, epoch % 5]
        for label, box in zip(target.labels.tolist(), target.boxes.numpy(), strict=True):
            if label != target.index:
                assert np.allclose(box, alone[0, label][1].boxes[0])
                joined += 1
            if change == "copy_paste":
                assert np.abs(box - coloured_box(image, label)).max() <= 1.01
    assert joined > 10


@pytest.mark.parametrize("change", ["mosaic", "copy_paste", "mixup"])
def test_images_are_combined_with_partners_only(tmp_path, change):
    augment = DetectionAugment(scale_jitter=None, **{change: 1.0})
    dataset = DetectionDataset(coloured(tmp_path), SIZE, FILL, True, "pad", augment, seed=3, partners=np.array([1, 4]))
    labels = {label for epoch in range(20) for label in dataset[epoch, 2][1].labels.tolist()}
    assert labels == {1, 2, 4}


def test_the_scale_of_a_mosaic_is_that_of_its_own_image(tmp_path):
    annotations = coloured(tmp_path)
    dataset = made(annotations, DetectionAugment(mosaic=1, **NOTHING_ELSE))
    for row in range(5):
        image, target = dataset[1, row]
        assert target.index == row
        assert target.size == tuple(annotations.sizes[row])
        original = cv2.imread(str(tmp_path / f"{row}.png"))[..., ::-1].copy()
        height, width = (round(side * scale) for side, scale in zip(original.shape, target.scale, strict=False))
        own, _ = letterbox(original, (height, width), FILL, True, "pad")
        assert np.abs(image[:, :height, :width].permute(1, 2, 0).numpy() - own.astype(int)).mean() < 3


def test_a_stretched_image_fills_the_input_in_training_and_evaluation_alike(tmp_path):
    annotations = coloured(tmp_path)
    for row in range(5):
        image, target = made(annotations, None, mode="stretch")[0, row]
        trained, own = made(annotations, DetectionAugment(**NOTHING_ELSE), mode="stretch")[0, row]
        height, width = annotations.sizes[row]
        assert target.scale == own.scale == (SIZE[0] / height, SIZE[1] / width)
        assert torch.equal(target.boxes, own.boxes)
        assert (image.float() - trained.float()).abs().mean() < 1  # training may decode a smaller image
        assert np.abs(coloured_box(image, row) - target.boxes[0].numpy()).max() <= 1


def test_boxes_of_stretched_and_combined_images_stay_on_their_pixels(tmp_path):
    annotations = coloured(tmp_path)
    changes = {"mosaic": 0.5, "photometric": 0}
    for jitter in (None, (0.5, 2.0)):
        dataset = made(annotations, DetectionAugment(scale_jitter=jitter, **changes), mode="stretch")
        for epoch in range(20):
            image, target = dataset[epoch, epoch % 5]
            for label in set(target.labels.tolist()):
                extent = coloured_box(image, label)
                assert extent is None or np.abs(extent - together(target, label)).max() <= 2


def test_without_scale_jitter_a_stretched_tile_has_the_stretch_of_the_whole_input(tmp_path):
    annotations = coloured(tmp_path)
    dataset = made(annotations, DetectionAugment(mosaic=1, **NOTHING_ELSE), mode="stretch")
    for row in range(5):
        height, width = annotations.sizes[row]
        vertical, horizontal = dataset[1, row][1].scale
        assert vertical / horizontal == pytest.approx(SIZE[0] / height / (SIZE[1] / width), rel=0.1)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("side", [160, 100, 60])
def test_training_and_evaluation_resize_by_one_rule(tmp_path, side, antialias, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    annotations = table(tmp_path, [noise], [[]])
    cv2.imwrite(str(tmp_path / "0.jpg"), noise, [cv2.IMWRITE_JPEG_QUALITY, 100])
    annotations = replace(annotations, file_names=np.array([f"0.{suffix}"]))
    deviations = [
        float(DetectionDataset(annotations, (side, side), FILL, antialias, "pad", augment, 0)[0, 0][0].float().std())
        for augment in (DetectionAugment(**NOTHING_ELSE), None)
    ]
    assert deviations[0] == pytest.approx(deviations[1], rel=0.15)


def photos(folder):
    """Smooth photos with a box each, as JPEGs."""
    rng = np.random.default_rng(1)
    sizes = [(427, 640), (480, 640), (333, 250), (600, 401)]
    images = [
        cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
        for size in sizes
    ]
    annotations = table(folder, images, [[(20, 30, 200, 220)]] * 4)
    for row, image in enumerate(images):
        cv2.imwrite(str(folder / f"{row}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return replace(annotations, file_names=np.array([f"{row}.jpg" for row in range(4)]))


def test_a_sample_from_a_reduced_image_is_that_from_the_whole_one(tmp_path):
    annotations = photos(tmp_path)
    augment = DetectionAugment(scale_jitter=(0.1, 1.0), copy_paste=0.2, mixup=0.2)
    # Where no size is annotated, the whole image is decoded.
    reduced, whole = made(annotations, augment), made(replace(annotations, sizes=annotations.sizes * 0), augment)
    differences = []
    for epoch in range(6):
        for row in range(4):
            (image, target), (wanted, wanted_target) = reduced[epoch, row], whole[epoch, row]
            assert torch.equal(target.boxes, wanted_target.boxes)
            assert torch.equal(target.labels, wanted_target.labels)
            assert (target.size, target.scale) == (wanted_target.size, wanted_target.scale)
            differences.append((image.float() - wanted.float()).abs().mean().item())
    assert 0 < np.mean(differences) < 1
    assert max(differences) < 2


@pytest.mark.parametrize("augment", [None, EVERYTHING, DetectionAugment(scale_jitter=None)])
def test_a_key_may_name_the_size_of_its_sample(tmp_path, augment):
    annotations = coloured(tmp_path)
    dataset = made(annotations, augment)
    for size in ((64, 64), (96, 32)):
        for row in range(5):
            image, target = dataset[Key(1, row, size)]
            other, other_target = made(annotations, augment, size=size)[1, row]
            assert image.shape == (3, *size)
            assert torch.equal(image, other)
            assert torch.equal(target.boxes, other_target.boxes)
            assert target.scale == other_target.scale
    assert dataset[Key(1, 0)][0].shape == (3, *SIZE)


@pytest.mark.parametrize("augment", [None, DetectionAugment(scale_jitter=(0.1, 0.1)), DetectionAugment()])
def test_an_image_removed_or_replaced_during_the_run_is_one_message(tmp_path, augment):
    dataset = made(photos(tmp_path), augment)
    dataset[0, 1]
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((470, 650, 3), np.uint8))
    assert str(dataset[0, 1]) == (
        f"{tmp_path / '1.jpg'}: the image is 650 x 470 pixels, its annotation says 640 x 480 (width x height); "
        "use the image that was annotated"
    )
    (tmp_path / "1.jpg").unlink()
    assert isinstance(dataset[0, 1], DataError)
    assert str(dataset[0, 1]) == f"{tmp_path / '1.jpg'}: no such image; check the path"


def test_a_sample_is_a_function_of_seed_epoch_and_row(tmp_path):
    annotations = noisy(tmp_path, [(50, 70)] * 6)
    dataset = made(annotations, EVERYTHING)
    first = [dataset[2, row] for row in range(6)]
    again = made(annotations, EVERYTHING)
    assert all(same(first[row], again[2, row]) for row in reversed(range(6)))
    for other in (made(annotations, EVERYTHING, seed=4)[2, 5], dataset[3, 5], dataset[2, 4]):
        assert not torch.equal(other[0], first[5][0])


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    dataset = made(noisy(tmp_path, [(50, 70)] * 6), EVERYTHING)
    order = TrainOrder(len(dataset), batch_size=3, seed=0)
    runs = [list(train_batches(dataset, order, 0, 4, workers, pin_memory=False)) for workers in (0, 2)]
    for alone, helped in zip(*runs, strict=True):
        assert torch.equal(alone.images, helped.images)
        for one, other in zip(alone.targets, helped.targets, strict=True):
            assert torch.equal(one.boxes, other.boxes)
            assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("change", ["mosaic", "copy_paste", "mixup"])
def test_the_last_epochs_join_no_images(tmp_path, change):
    annotations = noisy(tmp_path, [(50, 70)] * 8)
    augment = DetectionAugment(close_mosaic_epochs=2, **{change: 1.0})
    dataset, plain = made(annotations, augment, epochs=5), made(annotations, DetectionAugment())
    for epoch, joined in enumerate([True, True, True, False, False]):
        assert all(same(dataset[epoch, row], plain[epoch, row]) for row in range(8)) != joined
    endless = made(annotations, augment)
    assert not all(same(endless[4, row], plain[4, row]) for row in range(8))


def test_a_run_shorter_than_its_last_epochs_joins_none(tmp_path):
    annotations = noisy(tmp_path, [(50, 70)] * 3)
    dataset = made(annotations, DetectionAugment(mosaic=1, close_mosaic_epochs=9), epochs=5)
    assert same(dataset[0, 1], made(annotations, DetectionAugment())[0, 1])


@pytest.mark.parametrize("change", ["mosaic", "copy_paste", "mixup"])
def test_a_broken_image_that_is_joined_is_one_sentence(tmp_path, change):
    annotations = coloured(tmp_path)
    for row in range(1, 5):
        (tmp_path / f"{row}.png").write_bytes(b"no image")
    dataset = made(annotations, DetectionAugment(**{change: 1.0}))
    errors = [sample for sample in (dataset[epoch, 0] for epoch in range(10)) if isinstance(sample, DataError)]
    assert errors
    assert all("not a whole image" in str(error) and "0.png" not in str(error) for error in errors)
    assert not isinstance(made(annotations, DetectionAugment())[0, 0], DataError)


@pytest.mark.parametrize("change", ["mosaic", "copy_paste", "mixup"])
def test_crowds_of_other_images_are_no_targets_and_are_not_pasted(tmp_path, change):
    dataset = made(coloured(tmp_path, crowd=(1, 2, 3, 4)), DetectionAugment(**{change: 1.0}))
    plain = made(dataset.table, DetectionAugment(**NOTHING_ELSE))
    pasting = made(dataset.table, DetectionAugment(**NOTHING_ELSE, copy_paste=1.0))
    for epoch in range(20):
        assert set(dataset[epoch, 0][1].labels.tolist()) <= {0}
        (image, target), (before, _) = pasting[epoch, 1], plain[epoch, 1]
        assert torch.equal(image, before) or target.labels.tolist() == [0]


def test_everything_works_on_degenerate_images(tmp_path):
    dataset = made(noisy(tmp_path, [(1, 1), (1, 900), (900, 1), (2, 3), (700, 800)]), EVERYTHING, size=(64, 96))
    for epoch in range(12):
        for row in range(5):
            image, target = dataset[epoch, row]
            assert (image.shape, image.dtype) == ((3, 64, 96), torch.uint8)
            assert target.boxes.shape == (len(target.labels), 4)
            assert (target.boxes.dtype, target.labels.dtype) == (torch.float32, torch.int64)
            assert (target.boxes[:, 2:] - target.boxes[:, :2] >= 1).all()
            assert (target.boxes >= 0).all()
            assert (target.boxes <= torch.tensor([96, 64, 96, 64])).all()


def test_a_single_image_is_joined_with_itself(tmp_path):
    image, target = made(coloured(tmp_path, count=1), DetectionAugment(**NOTHING_ELSE, mosaic=1, mixup=1))[0, 0]
    assert image.shape == (3, *SIZE)
    assert target.labels.tolist() == [0] * 5


def test_images_without_objects_stay_without(tmp_path):
    annotations = table(tmp_path, [np.zeros((50, 70, 3), np.uint8)] * 3, [[], [], []])
    dataset = made(annotations, EVERYTHING)
    for epoch in range(10):
        _, target = dataset[epoch, 1]
        assert (target.boxes.shape, target.boxes.dtype) == ((0, 4), torch.float32)
        assert (target.labels.shape, target.labels.dtype) == ((0,), torch.int64)
