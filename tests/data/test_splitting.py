import cv2
import numpy as np
import pytest

from effdet.config import DetectionData
from effdet.data.data_set import read_data_set
from effdet.data.formats import read_table
from effdet.data.split_data import resplit
from effdet.data.splitting import (
    content_groups,
    joint_groups,
    named_groups,
    stratified_subsets,
    validation_rows,
)
from effdet.errors import DataError

NAMES = ("ant", "bee", "cow", "dog")
FREQUENCIES = (0.02, 0.1, 0.3, 1.0)  # of images with each class


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """200 images with rare and common classes; some have no objects."""
    folder = tmp_path_factory.mktemp("many")
    return drawn(folder, 200)


def drawn(folder, count, same=1):
    """A table of `count` images, of which each `same` in a row have the same content."""
    rng = np.random.default_rng(1)
    lines = []
    for number in range(count):
        values = np.full((4, 4, 3), 0, np.uint8)
        values[0, 0] = [number // same % 256, number // same // 256, 7]
        cv2.imwrite(str(folder / f"{number:03}.png"), values)
        lines.append(f"{number:03}.png,,,,,")
        for name, frequency in zip(NAMES, FREQUENCIES, strict=True):
            if rng.random() < frequency * 0.9:
                lines += [f"{number:03}.png,0,0,4,{side},{name}" for side in range(1, 1 + rng.integers(1, 4))]
    (folder / "train.csv").write_text("\n".join(lines))
    return read_table(DetectionData(root=folder, val=None), "train")


def alone(table):
    return np.arange(len(table))


@pytest.mark.parametrize("fractions", [(0.8, 0.2), (0.7, 0.2, 0.1), (0.5, 0.5), (0.995, 0.005), (0.333, 0.333, 0.334)])
def test_each_subset_has_exactly_its_number_of_images(table, fractions):
    subsets = stratified_subsets(table, alone(table), fractions)
    sizes = np.bincount(subsets, minlength=len(fractions))
    assert np.abs(sizes - np.array(fractions) * len(table)).max() < 1
    assert sizes.sum() == len(table)


@pytest.mark.parametrize("seed", range(3))
def test_each_class_has_its_fraction_to_within_two_objects(table, seed):
    fractions = (0.7, 0.2, 0.1)
    subsets = stratified_subsets(table, alone(table), fractions, seed)
    for label in range(4):
        objects = np.bincount(subsets[table.image_of_label()[table.labels == label]], minlength=3)
        wanted = np.array(fractions) * objects.sum()
        assert np.abs(objects - wanted).max() <= max(2, 0.02 * objects.sum())


def test_the_choice_depends_on_the_seed_and_not_on_the_order(table):
    chosen = stratified_subsets(table, alone(table), (0.8, 0.2))
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = table.subset(order)
    assert (stratified_subsets(shuffled, alone(table), (0.8, 0.2)) == chosen[order]).all()
    assert (stratified_subsets(table, alone(table), (0.8, 0.2)) == chosen).all()
    assert (stratified_subsets(table, alone(table), (0.8, 0.2), seed=1) != chosen).any()


def test_groups_stay_together_and_sizes_are_exact_to_within_one_group(table):
    groups = alone(table) // 7
    subsets = stratified_subsets(table, groups, (0.6, 0.25, 0.15))
    assert all(len(set(subsets[groups == group])) == 1 for group in range(groups.max() + 1))
    assert np.abs(np.bincount(subsets) - np.array([0.6, 0.25, 0.15]) * len(table)).max() <= 7
    order = np.random.default_rng(0).permutation(len(table))
    assert (stratified_subsets(table.subset(order), groups[order], (0.6, 0.25, 0.15)) == subsets[order]).all()


def test_no_subset_is_empty_even_if_groups_are_large(table):
    groups = np.minimum(alone(table), 1)  # one image, and all others
    assert sorted(np.bincount(stratified_subsets(table, groups, (0.5, 0.5)))) == [1, 199]
    three = np.repeat([0, 1, 2], [198, 1, 1])
    assert sorted(np.bincount(stratified_subsets(table, three, (0.98, 0.01, 0.01)))) == [1, 1, 198]


def test_too_few_groups_are_one_sentence(table):
    with pytest.raises(
        DataError, match=r"200 images of 1 different content cannot be split into 2; set data\.val=null"
    ):
        stratified_subsets(table, np.zeros(200, np.int64), (0.8, 0.2))


def test_images_of_identical_content_are_validated_on_together(tmp_path):
    doubled = drawn(tmp_path, 40, same=2)
    groups = content_groups(doubled)
    assert (groups == np.arange(40) // 2).all()
    validating = validation_rows(doubled, 0.2)
    assert validating.sum() == 8
    assert (validating[::2] == validating[1::2]).all()


@pytest.mark.parametrize(
    ("first", "second", "joint"),
    [
        ([0, 0, 1, 2], [0, 1, 1, 2], [0, 0, 0, 1]),
        ([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 1, 2, 3, 4, 5], [5, 5, 4, 4, 3, 3], [0, 0, 1, 1, 2, 2]),
        ([3, 3, 2, 2, 1, 1], [0, 1, 1, 2, 2, 3], [0] * 6),
    ],
)
def test_groupings_are_joined(first, second, joint):
    assert joint_groups(np.array(first), np.array(second)).tolist() == joint


def test_a_long_chain_of_groups_is_joined():
    rows = np.arange(1000)
    assert not joint_groups((rows + 1) // 2, rows // 2).any()


def test_groups_are_named_by_folders_or_by_a_regular_expression():
    names = ["a/1.png", "a/2.png", "b/c/1.png", "3.png"]
    groups, without = named_groups(names, "folder")
    assert groups.tolist() == [0, 0, 1, 2]
    assert without == 1
    names = ["patient_1_x.png", "patient_12_x.png", "patient_1_y.png", "other.png", "another.png"]
    groups, without = named_groups(names, r"patient_(\d+)")
    assert groups.tolist() == [0, 1, 0, 2, 3]
    assert without == 2
    assert named_groups(["ab1", "ab2", "cd1"], "^..")[0].tolist() == [0, 0, 1]  # the whole match, without parentheses
    assert named_groups(["a1", "ab"], r"a(\d)?")[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ("folder", "--group-by folder: all images are in one folder"),
        ("x(", r"--group-by 'x\(' is not a regular expression: .*; expected 'folder' or one such as 'patient"),
        ("zz", "--group-by 'zz' matches no image; they are named such as a.png"),
    ],
)
def test_groups_that_do_not_exist_are_one_sentence(group_by, message):
    with pytest.raises(DataError, match=message):
        named_groups(["a.png", "b.png"], group_by)


@pytest.mark.parametrize("name", ["bccd", "cards"])
def test_classes_of_real_data_sets_are_even_to_within_a_hundredth(shared_data, name):
    data_set = read_data_set(DetectionData(root=shared_data(name)))
    fractions = {"train": 0.7, "val": 0.2, "test": 0.1}
    for seed in range(3):
        chosen = resplit(data_set, fractions, seed)
        for _, counts in chosen.class_counts():
            assert np.abs(np.array(counts) / sum(counts) - list(fractions.values())).max() < 0.01
