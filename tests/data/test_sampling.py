import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from effdet.config import DetectionAugment, DetectionConfig, DetectionData, TrainConfig
from effdet.data.annotations import Annotations
from effdet.data.images import letterbox
from effdet.data.label_map import LabelMap
from effdet.data.sampling import (
    SHARD_WINDOW,
    Key,
    Shapes,
    TrainOrder,
    batch_shapes,
    detection_order,
    rank_share,
    repeat_factors,
    steps_per_epoch,
)
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
        label_map=LabelMap(tuple("abcd"[:num_classes]), tuple(range(num_classes))),
    )


def epoch_of(order, epoch):
    """Batches of one epoch."""
    steps = order.steps_per_epoch
    return list(order.batches(epoch * steps, (epoch + 1) * steps))


def taken(order, epoch):
    """How often each row is taken in an epoch whose samples fill its batches, [I]."""
    rows = [key.row for batch in epoch_of(order, epoch) for key in batch]
    return np.bincount(rows, minlength=order.num_images)


def mixed_order(seed=0, batch_size=8):
    """An order with everything at once: repeats, five shapes, scales and shards."""
    rng = np.random.default_rng(1)
    sizes = rng.choice([(480, 640), (640, 480), (427, 640), (640, 640), (0, 0)], 203)
    return TrainOrder(
        203,
        batch_size,
        seed,
        repeats=rng.choice([0, 0.4, 1, 1.7, 3], 203),
        shapes=batch_shapes(sizes.astype(np.int32), (512, 512)),
        scales=(0.5, 1.5),
        shards=np.arange(203) // 10,
    )


# batches of a run


def test_only_full_batches_make_an_epoch_unless_there_is_none():
    assert [steps_per_epoch(images, 4) for images in (12, 11, 4, 3, 1)] == [3, 2, 1, 1, 1]


@pytest.mark.parametrize("seed", [0, 1])
def test_an_epoch_is_a_permutation_that_seed_and_epoch_tell(seed):
    for epoch in range(3):
        sequence = np.random.SeedSequence([seed, epoch], spawn_key=(1,))
        rows = np.random.Generator(np.random.PCG64(sequence)).permutation(11).tolist()
        expected = [[Key(epoch, row) for row in rows[first : first + 4]] for first in (0, 4)]
        assert epoch_of(TrainOrder(11, 4, seed), epoch) == expected


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    orders = [TrainOrder(100, 100, seed) for seed in (0, 1)]
    batches = [batch for order in orders for batch in order.batches(0, 3)]
    assert len({tuple(key.row for key in batch) for batch in batches}) == 6
    assert all(sorted(key.row for key in batch) == list(range(100)) for batch in batches)


def test_a_table_smaller_than_a_batch_is_one_batch():
    assert [len(batch) for batch in TrainOrder(3, 4, seed=0).batches(0, 2)] == [3, 3]


@pytest.mark.parametrize("start", [0, 1, 2, 5, 30, 60, 70])
@pytest.mark.parametrize("order", [TrainOrder(11, 4, 0), mixed_order()], ids=["plain", "mixed"])
def test_a_resumed_order_gives_the_rest_of_the_same_run(order, start):
    assert list(order.batches(start, 70)) == list(order.batches(0, 70))[start:]


def test_everything_together_keeps_the_bounds_of_the_epochs():
    order = mixed_order()
    allowed = order.repeats
    for epoch in range(6):
        batches = epoch_of(order, epoch)
        assert {len(batch) for batch in batches} == {8}
        assert {key.epoch for batch in batches for key in batch} == {epoch}
        assert len(batches) == order.num_samples // 8
        assert all(len({key.size for key in batch}) == 1 for batch in batches)
        assert (taken(order, epoch) <= np.ceil(allowed)).all()
    assert len({key.size for batch in order.batches(0, 60) for key in batch}) > 10
    assert list(mixed_order(seed=1).batches(0, 9)) != list(order.batches(0, 9))


# many processes


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_parts_of_all_ranks_in_their_order_are_the_batch(world_size):
    order = mixed_order()
    order.check_processes(world_size)
    for batch in order.batches(0, 5):
        shares = [rank_share(batch, rank, world_size) for rank in range(world_size)]
        assert {len(share) for share in shares} == {8 // world_size}
        assert [key for share in shares for key in share] == batch


@pytest.mark.parametrize(
    ("num_images", "batch_size", "world_size", "advice"),
    [
        (
            100,
            16,
            6,
            r"train\.batch_size=16 .* 6 processes cannot share it equally; set train\.batch_size to 12 or 18$",
        ),
        (100, 2, 3, r"set train\.batch_size to 3$"),
        (17, 16, 6, r"set train\.batch_size to 12$"),
        (10, 16, 4, r"train\.batch_size=16 is more than an epoch's 10 samples, .* set train\.batch_size=8$"),
        (3, 16, 4, r"4 processes cannot share the 3 training images; start fewer processes$"),
    ],
)
def test_a_batch_that_processes_cannot_share_is_refused_with_the_nearest_that_they_can(
    num_images, batch_size, world_size, advice
):
    with pytest.raises(ConfigError, match=advice):
        TrainOrder(num_images, batch_size, seed=0).check_processes(world_size)


# repeats


@pytest.mark.parametrize("total", ["whole", "rounded up", "rounded down"])
def test_images_are_taken_as_often_as_their_factor_says(total):
    rng = np.random.default_rng(0)
    factors = np.concatenate([np.zeros(5), np.ones(20), rng.uniform(0, 4, 40)])
    factors[-1] += {"whole": 0.0, "rounded up": 0.7, "rounded down": 0.3}[total] - factors.sum() % 1
    samples = round(factors.sum())
    order = TrainOrder(len(factors), samples, seed=0, repeats=factors)
    assert (order.num_samples, order.steps_per_epoch) == (samples, 1)
    counts = np.array([taken(order, epoch) for epoch in range(400)])
    assert (counts.sum(axis=1) == samples).all()
    assert (counts >= np.floor(factors)).all()
    assert (counts <= np.ceil(factors)).all()
    assert (counts[:, :5] == 0).all()
    assert np.abs(counts.mean(axis=0) - factors).max() < 0.1  # four standard deviations of the mean


def test_images_of_one_factor_are_drawn_independently_of_their_place():
    counts = np.array([taken(TrainOrder(4, 6, 0, np.full(4, 1.5)), epoch) for epoch in range(600)])
    pairs = Counter(tuple(np.flatnonzero(row == 2)) for row in counts)
    assert len(pairs) == 6
    assert all(60 < count < 140 for count in pairs.values())


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
            share = sum(label in other for other in images) / len(images)
            own.append(max(1.0, math.sqrt(threshold / share)))
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


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_background_makes_up_its_share_of_an_epoch(share):
    annotations = table([[0], [1], [], [0, 1], [], [2]] * 20, crowd=())
    factors = repeat_factors(annotations, None, share)
    order = TrainOrder(120, 1, 0, factors)
    counts = taken(order, 0)
    background = np.diff(annotations.offsets) == 0
    assert abs(counts[background].sum() / counts.sum() - share) < 1 / counts.sum()
    assert (counts[~background] == 1).all()


def test_the_share_of_background_is_that_beside_the_repeated_images():
    factors = repeat_factors(table([[0, 1], [0], [0, 0], []]), 1.0, 0.5)
    assert factors[3] == pytest.approx(factors[:3].sum())
    assert factors[0] == 2


def test_images_of_crowds_alone_are_background():
    assert repeat_factors(table([[0], [1], []], crowd=[1]), None, 0.0).tolist() == [1, 0, 0]


def test_nothing_asked_for_is_no_repeats():
    assert repeat_factors(table([[0], []]), None, None) is None


@pytest.mark.parametrize(
    ("labels", "share", "kind"),
    [([[0], [1]], 0.2, "no images"), ([[], []], 0.2, "only images"), ([[], []], 0.0, "only images")],
)
def test_a_share_that_the_table_cannot_give_is_refused(labels, share, kind):
    with pytest.raises(DataError, match=rf"train\.json: data\.background_fraction={share:g} .* {kind} without objects"):
        repeat_factors(table(labels), None, share)


def test_rows_that_no_epoch_takes_are_told_from_the_others():
    assert TrainOrder(4, 2, 0, np.array([1.5, 0, 0.25, 3])).rows.tolist() == [0, 2, 3]
    assert TrainOrder(3, 2, 0).rows.tolist() == [0, 1, 2]


def test_no_background_to_leave_out_is_none_left_out():
    assert repeat_factors(table([[0], [1]]), None, 0.0).tolist() == [1, 1]


# shapes


@pytest.mark.parametrize("image_size", [(512, 512), (384, 640), (768, 512), (320, 320), (896, 896), (65, 65)])
def test_a_shape_holds_its_images_at_the_scale_of_the_configured_input(image_size):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 1500, (400, 2)).astype(np.int32)
    shapes = batch_shapes(sizes, image_size)
    assert shapes.sizes[0] == image_size
    assert len(set(shapes.sizes)) == len(shapes.sizes) <= 11
    for size, group in zip(sizes, shapes.groups, strict=True):
        shape = shapes.sizes[group]
        scale = min(image_size[0] / size[0], image_size[1] / size[1])
        own = min(shape[0] / size[0], shape[1] / size[1])
        assert own == pytest.approx(scale, rel=2e-4)
        assert sum(side != full for side, full in zip(shape, image_size, strict=True)) <= 1
        assert all(side % 32 == 0 or side == full for side, full in zip(shape, image_size, strict=True))
        smaller = [
            s for s in shapes.sizes if math.prod(s) < math.prod(shape) and (s[0] <= shape[0] and s[1] <= shape[1])
        ]
        assert all(min(s[0] / size[0], s[1] / size[1]) < scale - 1e-6 for s in smaller)


def test_usual_photographs_have_shapes_of_their_own():
    sizes = np.array([(480, 640), (640, 480), (1080, 1920), (427, 640), (600, 600), (100, 900), (0, 0)], np.int32)
    shapes = batch_shapes(sizes, (512, 512))
    wanted = [(384, 512), (512, 384), (288, 512), (352, 512), (512, 512), (256, 512), (512, 512)]
    assert [shapes.sizes[group] for group in shapes.groups] == wanted


def test_the_letterbox_into_a_shape_shows_the_image_as_large():
    image = np.zeros((427, 640, 3), np.uint8)
    shapes = batch_shapes(np.array([image.shape[:2]], np.int32), (512, 512))
    assert letterbox(image, shapes.sizes[shapes.groups[0]], (0, 0, 0))[1] == letterbox(image, (512, 512), (0, 0, 0))[1]


def test_a_batch_has_one_shape_and_left_over_rows_the_configured_one():
    groups = np.array([1] * 10 + [2] * 7 + [0] * 6)
    sizes = ((64, 64), (64, 32), (32, 64))
    order = TrainOrder(23, 4, 0, shapes=Shapes(sizes, groups))
    for epoch in range(5):
        batches = epoch_of(order, epoch)
        counted = Counter(batch[0].size for batch in batches)
        assert counted == {(64, 32): 2, (32, 64): 1, (64, 64): 2}  # 6 + 2 + 3 rows are left for the first
        rows = [key.row for batch in batches for key in batch]
        assert len(set(rows)) == 20
        for batch in batches:
            own = {sizes[groups[key.row]] for key in batch}
            assert own == {batch[0].size} or batch[0].size == (64, 64)
    orders = {tuple(batch[0].size for batch in epoch_of(order, epoch)) for epoch in range(10)}
    assert len(orders) > 3


def test_a_table_smaller_than_a_batch_has_the_configured_shape_unless_all_share_another():
    sizes = ((64, 64), (64, 32))
    for groups, size in (([1, 1, 1], (64, 32)), ([1, 1, 0], (64, 64))):
        (batch,) = TrainOrder(3, 8, 0, shapes=Shapes(sizes, np.array(groups))).batches(0, 1)
        assert {key.size for key in batch} == {size}
        assert len(batch) == 3


# scales


def test_the_size_of_a_step_is_a_multiple_of_32_within_the_range():
    order = TrainOrder(8, 2, 0, shapes=Shapes(((512, 384),), np.zeros(8, int)), scales=(0.5, 1.5))
    batches = list(order.batches(0, 200))
    assert all(len({key.size for key in batch}) == 1 for batch in batches)
    heights, widths = np.array([batch[0].size for batch in batches]).T
    assert set(heights) == set(range(256, 769, 32))
    assert (widths % 32 == 0).all()
    assert np.abs(widths / heights - 0.75).max() < 0.1
    plain = list(TrainOrder(8, 2, 0).batches(0, 200))
    assert [[key.row for key in batch] for batch in batches] == [[key.row for key in batch] for batch in plain]


def test_no_scale_makes_an_input_too_small():
    order = TrainOrder(8, 2, 0, shapes=Shapes(((128, 64),), np.zeros(8, int)), scales=(0.1, 0.2))
    assert {batch[0].size for batch in order.batches(0, 9)} == {(64, 64)}


# shards


def test_few_shards_are_read_at_a_time():
    shards = np.arange(1000) // 10  # 100 shards
    order = TrainOrder(1000, 8, 0, shards=shards)
    for epoch in range(2):
        batches = epoch_of(order, epoch)
        assert sorted(key.row for batch in batches for key in batch) == list(range(1000))
        rows = np.array([key.row for batch in batches for key in batch])
        for window in shards[rows[:960]].reshape(-1, SHARD_WINDOW * 10):
            assert len(set(window.tolist())) == SHARD_WINDOW
        assert len(set(shards[rows[:24]].tolist())) > 3  # and mixed within


def test_shapes_leave_the_reading_local_but_for_what_is_left_over():
    shards = np.repeat(np.arange(100), 20)
    shapes = Shapes(((64, 64), (64, 32)), np.tile([0, 1], 1000))
    batches = epoch_of(TrainOrder(2000, 8, 0, shapes=shapes, shards=shards), 0)
    for first in range(0, len(batches) - 40, 10):  # of about 20 batches in a window
        near = {int(shards[key.row]) for batch in batches[first : first + 10] for key in batch}
        assert len(near) <= 3 * SHARD_WINDOW


def test_a_few_shards_are_ordered_as_files_of_their_own():
    shards = np.arange(40) // 5
    assert list(TrainOrder(40, 4, 0, shards=shards).batches(0, 30)) == list(TrainOrder(40, 4, 0).batches(0, 30))


# recipes


def recipe(augment=None, **data):
    settings = {"augment": DetectionAugment(**(augment or {})), "data": DetectionData(**data)}
    return DetectionConfig(train=TrainConfig(batch_size=2), seed=5, **settings)


def test_a_recipe_without_wishes_has_the_plain_order():
    order = detection_order(recipe(), table([[0], [1], [], [2]]), (64, 64))
    assert list(order.batches(0, 9)) == list(TrainOrder(4, 2, 5).batches(0, 9))


def test_a_recipe_tells_repeats_shapes_and_scales():
    annotations = table([[0], [0], [0, 1], []], sizes=[(40, 80), (80, 40), (80, 80), (80, 80)])
    order = detection_order(
        recipe({"multi_scale": (1, 2)}, repeat_threshold=1.0, background_fraction=0.2, rectangular=True),
        annotations,
        (128, 128),
    )
    assert order.repeats.tolist() == repeat_factors(annotations, 1.0, 0.2).tolist()
    assert order.shapes.sizes[order.shapes.groups[1]] == (128, 64)
    assert order.scales == (1, 2)
    assert detection_order(recipe({"multi_scale": (1, 2)}), annotations, (128, 128)).shapes.sizes == ((128, 128),)


@pytest.mark.parametrize(("key", "value"), [("background_fraction", 1.0), ("repeat_threshold", 1.5)])
def test_shares_beyond_the_whole_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        DetectionData(**{key: value})


def test_a_range_of_scales_rises():
    with pytest.raises(ValueError, match=r"augment\.multi_scale is a range, the smaller scale first"):
        DetectionAugment(multi_scale=(1.5, 0.5))


def test_copies_of_a_row_in_an_epoch_are_numbered_and_drawn_apart():
    order = TrainOrder(3, 2, 0, repeats=np.array([3.0, 1.0, 2.0]))
    keys = [key for batch in order.batches(0, order.steps_per_epoch) for key in batch]
    assert sorted((key.row, key.copy) for key in keys) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    draws = {key.rng(7).random() for key in keys}
    assert len(draws) == 6
    plain = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, 0, 1])))
    assert Key(0, 1).rng(7).random() == plain.random()
