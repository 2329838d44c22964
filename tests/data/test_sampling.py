import math
from pathlib import Path

import numpy as np
import pytest

from effdet.config import (
    ClassificationConfig,
    ClassificationData,
    DetectionAugment,
    DetectionConfig,
    DetectionData,
    TrainConfig,
)
from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.data.letterbox import letterbox
from effdet.data.sampling import batch_sizes, classification_order, detection_order, repeat_factors
from effdet.data.train_order import TrainOrder
from effdet.errors import ConfigError, DataError


def table(labels, crowd=(), num_classes=4, sizes=(50, 70)):
    """A table of images with the given labels each; `crowd` names rows of the boxes."""
    flat = np.array([label for image in labels for label in image], np.int64)
    count = len(labels)
    return Annotations(
        source=Path("train.json"),
        image_folder=Path(),
        file_names=np.array([f"{index}.png" for index in range(count)]),
        image_ids=np.arange(count),
        sizes=np.tile(np.array(sizes, np.int32), (count, 1)) if np.ndim(sizes) == 1 else np.array(sizes, np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(image) for image in labels])]).astype(np.int64),
        boxes=np.tile(np.array([1, 1, 9, 9], np.float32), (len(flat), 1)),
        labels=flat,
        crowd=np.isin(np.arange(len(flat)), crowd),
        areas=np.full(len(flat), 64.0),
        difficult=np.zeros(len(flat), bool),
        label_map=LabelMap(tuple("abcd"[:num_classes]), tuple(range(num_classes))),
    )


def slow_factors(annotations, threshold):
    """Section 3 of arXiv:1908.03195, word by word."""
    images = []
    for index in range(len(annotations)):
        rows = annotations.rows(index)
        kept = zip(annotations.labels[rows], annotations.crowd[rows], strict=True)
        images.append({int(label) for label, crowd in kept if not crowd})
    factors = []
    for classes in images:
        own = [1.0]
        for label in classes:
            fraction = sum(label in other for other in images) / len(images)
            own.append(max(1.0, math.sqrt(threshold / fraction)))
        factors.append(max(own))
    return factors


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.3, 1.0])
def test_repeat_factors_are_those_of_the_paper(threshold):
    rng = np.random.default_rng(2)
    labels = [rng.choice(4, rng.integers(0, 4), p=[0.8, 0.15, 0.04, 0.01]).tolist() for _ in range(120)]
    annotations = table(labels, crowd=np.arange(0, sum(map(len, labels)), 7))
    assert np.allclose(repeat_factors(annotations, threshold, None), slow_factors(annotations, threshold))


def test_a_class_in_a_quarter_of_the_images_below_a_threshold_of_all_is_doubled():
    assert repeat_factors(table([[0, 1], [0], [0, 0], []]), 1.0, None) == pytest.approx(
        [2, math.sqrt(4 / 3), math.sqrt(4 / 3), 1]
    )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_background_makes_up_its_fraction_of_an_epoch(fraction):
    annotations = table([[0], [1], [], [0, 1], [], [2]] * 20, crowd=())
    factors = repeat_factors(annotations, None, fraction)
    order = TrainOrder(120, 1, 0, factors)
    counts = np.bincount([batch[0].row for batch in order.batches(0, order.steps_per_epoch)], minlength=120)
    background = np.diff(annotations.offsets) == 0
    assert abs(counts[background].sum() / counts.sum() - fraction) < 1 / counts.sum()
    assert (counts[~background] == 1).all()


def test_the_background_fraction_counts_repeated_images():
    factors = repeat_factors(table([[0, 1], [0], [0, 0], []]), 1.0, 0.5)
    assert factors[3] == pytest.approx(factors[:3].sum())
    assert factors[0] == 2


def test_images_with_crowd_regions_only_are_background():
    assert repeat_factors(table([[0], [1], []], crowd=[1]), None, 0.0).tolist() == [1, 0, 0]


def test_without_settings_there_are_no_repeats():
    assert repeat_factors(table([[0], []]), None, None) is None


@pytest.mark.parametrize(
    ("labels", "fraction", "kind"),
    [([[0], [1]], 0.2, "no images"), ([[], []], 0.2, "only images"), ([[], []], 0.0, "only images")],
)
def test_an_impossible_background_fraction_is_refused(labels, fraction, kind):
    with pytest.raises(
        DataError, match=rf"train\.json: data\.background_fraction={fraction:g} .* {kind} without objects"
    ):
        repeat_factors(table(labels), None, fraction)


def test_a_background_fraction_of_zero_needs_no_background():
    assert repeat_factors(table([[0], [1]]), None, 0.0).tolist() == [1, 1]


@pytest.mark.parametrize("image_size", [(512, 512), (384, 640), (768, 512), (320, 320), (896, 896), (65, 65)])
def test_a_batch_size_holds_its_images_at_the_scale_of_the_configured_input(image_size):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 1500, (400, 2)).astype(np.int32)
    inputs, size_of_row = batch_sizes(sizes, image_size)
    assert inputs[0] == image_size
    assert len(set(inputs)) == len(inputs) <= 11
    for size, index in zip(sizes, size_of_row, strict=True):
        shape = inputs[index]
        scale = min(image_size[0] / size[0], image_size[1] / size[1])
        own = min(shape[0] / size[0], shape[1] / size[1])
        assert own == pytest.approx(scale, rel=2e-4)
        assert sum(side != full for side, full in zip(shape, image_size, strict=True)) <= 1
        assert all(side % 32 == 0 or side == full for side, full in zip(shape, image_size, strict=True))
        smaller = [s for s in inputs if math.prod(s) < math.prod(shape) and (s[0] <= shape[0] and s[1] <= shape[1])]
        assert all(min(s[0] / size[0], s[1] / size[1]) < scale - 1e-6 for s in smaller)


def test_usual_photographs_have_input_sizes_of_their_own():
    sizes = np.array([(480, 640), (640, 480), (1080, 1920), (427, 640), (600, 600), (100, 900), (0, 0)], np.int32)
    inputs, size_of_row = batch_sizes(sizes, (512, 512))
    expected = [(384, 512), (512, 384), (288, 512), (352, 512), (512, 512), (256, 512), (512, 512)]
    assert [inputs[index] for index in size_of_row] == expected


def test_the_letterbox_into_a_smaller_input_has_the_same_scale():
    image = np.zeros((427, 640, 3), np.uint8)
    inputs, (index,) = batch_sizes(np.array([image.shape[:2]], np.int32), (512, 512))
    assert (
        letterbox(image, inputs[index], (0, 0, 0), True, "pad")[1]
        == letterbox(image, (512, 512), (0, 0, 0), True, "pad")[1]
    )


# recipes


def recipe(augment=None, **data):
    settings = {"augment": DetectionAugment(**(augment or {})), "data": DetectionData(**data)}
    return DetectionConfig(train=TrainConfig(batch_size=2), seed=5, **settings)


def test_a_default_recipe_has_the_plain_order():
    order = detection_order(recipe(), table([[0], [1], [], [2]]), (64, 64), "pad")
    assert list(order.batches(0, 9)) == list(TrainOrder(4, 2, 5).batches(0, 9))


def test_rectangular_batches_of_stretched_images_are_refused():
    with pytest.raises(ConfigError, match=r"leave data\.rectangular out"):
        detection_order(recipe(rectangular=True), table([[0], [1]]), (64, 64), "stretch")


def test_a_classifiers_recipe_has_the_plain_order():
    labels = ImageLabels(
        source=Path("train"),
        image_folder=Path("train"),
        file_names=np.array([f"{index}.png" for index in range(4)]),
        labels=np.array([0, 1, 0, 1]),
        label_map=LabelMap(("a", "b"), (0, 1)),
    )
    config = ClassificationConfig(train=TrainConfig(batch_size=2), seed=5, data=ClassificationData())
    assert list(classification_order(config, labels).batches(0, 9)) == list(TrainOrder(4, 2, 5).batches(0, 9))


def test_repeats_sizes_and_scales_come_from_the_recipe():
    annotations = table([[0], [0], [0, 1], []], sizes=[(40, 80), (80, 40), (80, 80), (80, 80)])
    order = detection_order(
        recipe({"multi_scale": (1, 2)}, repeat_threshold=1.0, background_fraction=0.2, rectangular=True),
        annotations,
        (128, 128),
        "pad",
    )
    assert order.repeats.tolist() == repeat_factors(annotations, 1.0, 0.2).tolist()
    assert order.sizes[order.size_of_row[1]] == (128, 64)
    assert order.scales == (1, 2)
    assert detection_order(recipe({"multi_scale": (1, 2)}), annotations, (128, 128), "pad").sizes == ((128, 128),)


@pytest.mark.parametrize(("key", "value"), [("background_fraction", 1.0), ("repeat_threshold", 1.5)])
def test_fractions_above_one_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        DetectionData(**{key: value})
