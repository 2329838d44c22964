import pickle

import cv2
import numpy as np
import pytest
import torch

from effdet.config import ClassificationAugment, ProgressiveConfig
from effdet.data.cache import DiskCache, MemoryCache
from effdet.data.classification_dataset import ClassificationDataset
from effdet.data.images import read_image
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.data.resize import classification_view
from effdet.data.train_order import Key
from effdet.errors import DataError

PLAIN = ClassificationAugment(crop_area=None, horizontal_flip=0)
STAGES = ProgressiveConfig(
    image_size=(32, 48, 64),
    rand_augment_magnitude=(5, 10, 15),
    mixup_alpha=(0, 0.1, 0.2),
    cutmix_alpha=(0, 0.3, 0.6),
    dropout=(0.1, 0.2, 0.3),
)


def table(folder, count=4, size=(60, 90)):
    """Noisy images; image i is of class i % 2."""
    rng = np.random.default_rng(0)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return ImageLabels(
        source=folder,
        image_folder=folder,
        file_names=np.array([f"{index}.png" for index in range(count)]),
        labels=np.arange(count) % 2,
        label_map=LabelMap(("a", "b"), (0, 1)),
    )


def data_set(labels, augment=None, size=(40, 40), progressive=None, epochs=10, seed=0):
    return ClassificationDataset(labels, size, 0.875, "bicubic", augment, progressive, epochs, seed)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "augment",
    [None, PLAIN, ClassificationAugment(), ClassificationAugment(rand_augment={"layers": 2}, random_erasing=1)],
)
@pytest.mark.parametrize("size", [(40, 40), (32, 64)])
def test_a_sample_is_an_image_of_the_input_size_with_its_class(tmp_path, augment, size):
    dataset = data_set(table(tmp_path), augment, size)
    assert len(dataset) == 4
    for row in range(4):
        image, (label, index) = dataset[0, row]
        assert image.shape == (3, *size)
        assert image.dtype == torch.uint8
        assert (label, index) == (row % 2, row)
        assert type(label) is int


@pytest.mark.parametrize("augment", [None, PLAIN])
def test_evaluation_and_training_without_crop_use_the_same_view(tmp_path, augment):
    labels = table(tmp_path)
    wanted = classification_view(read_image(labels.path(2)), (40, 40), 0.875, "bicubic")
    assert (data_set(labels, augment)[0, 2][0].permute(1, 2, 0).numpy() == wanted).all()


def test_a_flip_mirrors_the_image(tmp_path):
    labels = table(tmp_path)
    flipped = data_set(labels, ClassificationAugment(crop_area=None, horizontal_flip=1))[0, 1][0]
    assert torch.equal(flipped, data_set(labels, PLAIN)[0, 1][0].flip(2))


def photos(folder, size=(600, 803)):
    """Smooth photos, the same as JPEG and as BMP, whose size is not read before it is decoded."""
    rng = np.random.default_rng(0)
    for index in range(3):
        image = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(folder / f"{index}.bmp"), cv2.imread(str(folder / f"{index}.jpg")))
    return [
        ImageLabels(
            source=folder,
            image_folder=folder,
            file_names=np.array([f"{index}{suffix}" for index in range(3)]),
            labels=np.zeros(3, np.int64),
            label_map=LabelMap(("a", "b"), (0, 1)),
        )
        for suffix in (".jpg", ".bmp")
    ]


@pytest.mark.parametrize("augment", [ClassificationAugment(), PLAIN, ClassificationAugment(crop_area=(0.9, 1.0))])
def test_a_crop_of_a_reduced_jpeg_is_that_of_the_whole_one(tmp_path, augment):
    reduced, whole = (data_set(labels, augment, (48, 64)) for labels in photos(tmp_path))
    differences = [
        (reduced[epoch, row][0].float() - whole[epoch, row][0].float()).abs().mean().item()
        for epoch in range(8)
        for row in range(3)
    ]
    assert 0 < np.mean(differences) < 3
    assert max(differences) < 5


def test_evaluation_decodes_whole_images(tmp_path):
    jpeg, bitmap = (data_set(labels) for labels in photos(tmp_path))
    assert all(torch.equal(jpeg[0, row][0], bitmap[0, row][0]) for row in range(3))


@pytest.mark.parametrize("augment", [None, ClassificationAugment()])
def test_samples_are_the_same_with_a_cache(tmp_path, augment):
    labels, _ = photos(tmp_path)
    plain = data_set(labels, augment)
    for cache in (MemoryCache(3, 10**7, 0), DiskCache(tmp_path / "cache", 10**7)):
        cached = data_set(labels, augment)
        cached.cache = cache
        for epoch in (0, 1, 0, 1):
            assert all(torch.equal(cached[epoch, row][0], plain[epoch, row][0]) for row in range(3))


@pytest.mark.parametrize("augment", [None, ClassificationAugment()])
def test_a_key_may_name_the_size_of_its_sample(tmp_path, augment):
    labels = table(tmp_path)
    image = data_set(labels, augment)[Key(1, 2, (32, 56))][0]
    assert torch.equal(image, data_set(labels, augment, (32, 56))[1, 2][0])


def test_a_sample_depends_on_seed_epoch_and_row_alone(tmp_path):
    labels = table(tmp_path)
    augment = ClassificationAugment(rand_augment={"layers": 2}, random_erasing=0.5)
    first = data_set(labels, augment, seed=3)[4, 2][0]
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(9)
    other = data_set(labels, augment, seed=3)
    other[1, 1]
    assert torch.equal(first, other[4, 2][0])
    assert torch.equal(first, pickle.loads(pickle.dumps(other))[4, 2][0])
    assert not torch.equal(first, other[5, 2][0])
    assert not torch.equal(first, data_set(labels, augment, seed=4)[4, 2][0])


def test_a_broken_image_is_returned_as_its_error(tmp_path):
    dataset = data_set(table(tmp_path), ClassificationAugment())
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "2.png").unlink()
    assert "1.png: not a whole image" in str(dataset[0, 1])
    assert isinstance(dataset[0, 2], DataError)


def test_images_have_the_size_and_strength_of_their_stage(tmp_path):
    labels = table(tmp_path)
    augment = ClassificationAugment(rand_augment={"layers": 1})
    dataset = data_set(labels, augment, progressive=STAGES, epochs=3)
    assert [tuple(dataset[epoch, 0][0].shape) for epoch in range(3)] == [(3, 32, 32), (3, 48, 48), (3, 64, 64)]
    weak = ProgressiveConfig(image_size=(32,), rand_augment_magnitude=(0,))
    strong = ProgressiveConfig(image_size=(32,), rand_augment_magnitude=(10,))
    pairs = [
        (data_set(labels, augment, progressive=stages)[0, row][0] for stages in (weak, strong)) for row in range(4)
    ]
    assert any(not torch.equal(*pair) for pair in pairs)


def test_training_uses_the_view_of_evaluation_if_no_crop_fits(tmp_path):
    labels = table(tmp_path, size=(2, 300))
    augment = ClassificationAugment(horizontal_flip=0)
    assert torch.equal(data_set(labels, augment)[0, 0][0], data_set(labels)[0, 0][0])


def test_a_crop_for_a_wide_input_is_wide(tmp_path):
    for index in range(4):
        cv2.imwrite(
            str(tmp_path / f"{index}.png"),
            np.dstack(
                [
                    np.zeros((200, 200), np.uint8),
                    np.tile(np.arange(200, dtype=np.uint8), (200, 1)),
                    np.tile(np.arange(200, dtype=np.uint8)[:, None], (1, 200)),
                ]
            ),
        )
    labels = ImageLabels(
        source=tmp_path,
        image_folder=tmp_path,
        file_names=np.array([f"{index}.png" for index in range(4)]),
        labels=np.zeros(4, np.int64),
        label_map=LabelMap(("a", "b"), (0, 1)),
    )
    dataset = data_set(labels, ClassificationAugment(horizontal_flip=0, crop_area=(0.2, 0.3)), size=(40, 80))
    for epoch in range(20):
        red, green, _ = dataset[epoch, epoch % 4][0].float()  # rows and columns of the original
        height, width = (red[-1] - red[0]).mean() / 39 * 40, (green[:, -1] - green[:, 0]).mean() / 79 * 80
        assert 0.7 * 2 < width / height < 1.4 * 2


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 5)])
def test_degenerate_images_are_samples_too(tmp_path, size):
    augment = ClassificationAugment(rand_augment={"layers": 3}, random_erasing=1)
    dataset = data_set(table(tmp_path, count=2, size=size), augment)
    assert all(dataset[epoch, 0][0].shape == (3, 40, 40) for epoch in range(20))


def test_real_photos_are_samples(coco128):
    names = sorted(path.name for path in (coco128 / "images").glob("*.jpg"))[:16]
    labels = ImageLabels(
        source=coco128,
        image_folder=coco128 / "images",
        file_names=np.array(names),
        labels=np.zeros(16, np.int64),
        label_map=LabelMap(("a", "b"), (0, 1)),
    )
    dataset = data_set(
        labels, ClassificationAugment(rand_augment={"layers": 2, "magnitude": 15}, random_erasing=0.25), (96, 96)
    )
    images = torch.stack([dataset[0, row][0] for row in range(16)])
    assert images.shape == (16, 3, 96, 96)
    assert (images.float().std(dim=(1, 2, 3)) > 5).all()
