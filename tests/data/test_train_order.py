from collections import Counter

import numpy as np
import pytest

from effdet.data.sampling import batch_sizes
from effdet.data.train_order import SHARD_WINDOW, Key, TrainOrder, per_process, steps_per_epoch
from effdet.errors import ConfigError


def epoch_of(order, epoch):
    """Batches of one epoch."""
    steps = order.steps_per_epoch
    return list(order.batches(epoch * steps, (epoch + 1) * steps))


def draws(order, epoch):
    """How often each row is draws in an epoch whose samples fill its batches, [I]."""
    rows = [key.row for batch in epoch_of(order, epoch) for key in batch]
    return np.bincount(rows, minlength=order.num_images)


def mixed_order(seed=0, batch_size=8):
    """An order with everything at once: repeats, several sizes, scales and shards."""
    rng = np.random.default_rng(1)
    sizes = rng.choice([(480, 640), (640, 480), (427, 640), (640, 640), (0, 0)], 203)
    inputs, size_of_row = batch_sizes(sizes.astype(np.int32), (512, 512))
    return TrainOrder(
        203,
        batch_size,
        seed,
        repeats=rng.choice([0, 0.4, 1, 1.7, 3], 203),
        sizes=inputs,
        size_of_row=size_of_row,
        scales=(0.5, 1.5),
        shards=np.arange(203) // 10,
    )


# batches of a run


def test_an_epoch_has_full_batches_or_a_single_smaller_one():
    assert [steps_per_epoch(images, 4) for images in (12, 11, 4, 3, 1)] == [3, 2, 1, 1, 1]


@pytest.mark.parametrize("seed", [0, 1])
def test_an_epoch_is_a_permutation_seeded_by_seed_and_epoch(seed):
    for epoch in range(3):
        sequence = np.random.SeedSequence([seed, epoch], spawn_key=(1,))
        rows = np.random.Generator(np.random.PCG64(sequence)).permutation(11).tolist()
        expected = [[Key(epoch, row) for row in rows[first : first + 4]] for first in (0, 4)]
        assert epoch_of(TrainOrder(11, 4, seed), epoch) == expected


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = [TrainOrder(100, 100, seed) for seed in (0, 1)]
    batches = [batch for order in orders for batch in order.batches(0, 3)]
    assert len({tuple(key.row for key in batch) for batch in batches}) == 6
    assert all(sorted(key.row for key in batch) == list(range(100)) for batch in batches)


def test_a_table_smaller_than_a_batch_is_one_batch():
    assert [len(batch) for batch in TrainOrder(3, 4, seed=0).batches(0, 2)] == [3, 3]


@pytest.mark.parametrize("start", [0, 1, 2, 5, 30, 60, 70])
@pytest.mark.parametrize("order", [TrainOrder(11, 4, 0), mixed_order()], ids=["plain", "mixed"])
def test_a_resumed_order_continues_the_same_run(order, start):
    assert list(order.batches(start, 70)) == list(order.batches(0, 70))[start:]


def test_repeats_sizes_scales_and_shards_combined_respect_the_epochs():
    order = mixed_order()
    allowed = order.repeats
    for epoch in range(6):
        batches = epoch_of(order, epoch)
        assert {len(batch) for batch in batches} == {8}
        assert {key.epoch for batch in batches for key in batch} == {epoch}
        assert len(batches) == order.num_samples // 8
        assert all(len({key.size for key in batch}) == 1 for batch in batches)
        assert (draws(order, epoch) <= np.ceil(allowed)).all()
    assert len({key.size for batch in order.batches(0, 60) for key in batch}) > 10
    assert list(mixed_order(seed=1).batches(0, 9)) != list(order.batches(0, 9))


# many processes


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_per_process_batches_in_rank_order_are_the_batch(world_size):
    order = mixed_order()
    order.check_processes(world_size)
    for batch in order.batches(0, 5):
        sections = [per_process(batch, rank, world_size) for rank in range(world_size)]
        assert {len(section) for section in sections} == {8 // world_size}
        assert [key for section in sections for key in section] == batch


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
def test_an_indivisible_batch_is_refused_with_the_nearest_divisible_ones(num_images, batch_size, world_size, advice):
    with pytest.raises(ConfigError, match=advice):
        TrainOrder(num_images, batch_size, seed=0).check_processes(world_size)


# repeats


@pytest.mark.parametrize("total", ["whole", "rounded up", "rounded down"])
def test_images_are_drawn_as_often_as_their_factor_says(total):
    rng = np.random.default_rng(0)
    factors = np.concatenate([np.zeros(5), np.ones(20), rng.uniform(0, 4, 40)])
    factors[-1] += {"whole": 0.0, "rounded up": 0.7, "rounded down": 0.3}[total] - factors.sum() % 1
    samples = round(factors.sum())
    order = TrainOrder(len(factors), samples, seed=0, repeats=factors)
    assert (order.num_samples, order.steps_per_epoch) == (samples, 1)
    counts = np.array([draws(order, epoch) for epoch in range(400)])
    assert (counts.sum(axis=1) == samples).all()
    assert (counts >= np.floor(factors)).all()
    assert (counts <= np.ceil(factors)).all()
    assert (counts[:, :5] == 0).all()
    assert np.abs(counts.mean(axis=0) - factors).max() < 0.1  # four standard deviations of the mean


def test_images_of_one_factor_are_drawn_independently_of_their_position():
    counts = np.array([draws(TrainOrder(4, 6, 0, np.full(4, 1.5)), epoch) for epoch in range(600)])
    pairs = Counter(tuple(np.flatnonzero(row == 2)) for row in counts)
    assert len(pairs) == 6
    assert all(60 < count < 140 for count in pairs.values())


def test_rows_are_those_that_are_ever_drawn():
    assert TrainOrder(4, 2, 0, np.array([1.5, 0, 0.25, 3])).rows.tolist() == [0, 2, 3]
    assert TrainOrder(3, 2, 0).rows.tolist() == [0, 1, 2]


# input sizes


def test_a_batch_has_one_size_and_left_over_rows_the_configured_one():
    groups = np.array([1] * 10 + [2] * 7 + [0] * 6)
    sizes = ((64, 64), (64, 32), (32, 64))
    order = TrainOrder(23, 4, 0, sizes=sizes, size_of_row=groups)
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


def test_a_table_smaller_than_a_batch_has_the_configured_size_unless_all_have_another():
    sizes = ((64, 64), (64, 32))
    for groups, size in (([1, 1, 1], (64, 32)), ([1, 1, 0], (64, 64))):
        (batch,) = TrainOrder(3, 8, 0, sizes=sizes, size_of_row=np.array(groups)).batches(0, 1)
        assert {key.size for key in batch} == {size}
        assert len(batch) == 3


# scales


def test_the_size_of_a_step_is_a_multiple_of_32_within_the_range():
    order = TrainOrder(8, 2, 0, sizes=((512, 384),), scales=(0.5, 1.5))
    batches = list(order.batches(0, 200))
    assert all(len({key.size for key in batch}) == 1 for batch in batches)
    heights, widths = np.array([batch[0].size for batch in batches]).T
    assert set(heights) == set(range(256, 769, 32))
    assert (widths % 32 == 0).all()
    assert np.abs(widths / heights - 0.75).max() < 0.1
    plain = list(TrainOrder(8, 2, 0).batches(0, 200))
    assert [[key.row for key in batch] for batch in batches] == [[key.row for key in batch] for batch in plain]


def test_no_scale_makes_an_input_too_small():
    order = TrainOrder(8, 2, 0, sizes=((128, 64),), scales=(0.1, 0.2))
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


def test_sizes_keep_reading_local_except_for_left_over_rows():
    shards = np.repeat(np.arange(100), 20)
    sizes, size_of_row = ((64, 64), (64, 32)), np.tile([0, 1], 1000)
    batches = epoch_of(TrainOrder(2000, 8, 0, sizes=sizes, size_of_row=size_of_row, shards=shards), 0)
    for first in range(0, len(batches) - 40, 10):  # of about 20 batches in a window
        near = {int(shards[key.row]) for batch in batches[first : first + 10] for key in batch}
        assert len(near) <= 3 * SHARD_WINDOW


def test_a_few_shards_are_ordered_like_separate_files():
    shards = np.arange(40) // 5
    assert list(TrainOrder(40, 4, 0, shards=shards).batches(0, 30)) == list(TrainOrder(40, 4, 0).batches(0, 30))


def test_copies_of_a_row_in_an_epoch_are_numbered_and_have_their_own_draws():
    order = TrainOrder(3, 2, 0, repeats=np.array([3.0, 1.0, 2.0]))
    keys = [key for batch in order.batches(0, order.steps_per_epoch) for key in batch]
    assert sorted((key.row, key.copy) for key in keys) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    draws = {key.rng(7).random() for key in keys}
    assert len(draws) == 6
    plain = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, 0, 1])))
    assert Key(0, 1).rng(7).random() == plain.random()
