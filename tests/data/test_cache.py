import errno
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.config import DetectionAugment, DetectionData
from effdet.data.annotations import Annotations
from effdet.data.cache import ENTRY, DiskCache, MemoryCache, make_cache
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.formats.shard_index import read_shards
from effdet.data.images import REDUCTIONS, decode_image
from effdet.data.label_map import LabelMap
from effdet.data.loader import evaluation_batches
from effdet.data.shard_store import ShardFolder
from effdet.data.shard_writer import write_shards
from effdet.errors import DataError
from effdet.report.pictures import write_image

COUNT = 6
FULL = 90 * 120 * 3  # bytes of an image
INDEX = (COUNT * len(REDUCTIONS) + 1) * ENTRY.itemsize
EVERYTHING = DetectionAugment(photometric=0.5, mosaic=0.5, copy_paste=0.5, mixup=0.5, random_erasing=0.5)


def table(folder):
    """Photos of noise, 90 x 120, with a box each."""
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        cv2.imwrite(str(folder / f"{index}.jpg"), rng.integers(0, 256, (90, 120, 3), np.uint8))
    return Annotations(
        source=folder,
        image_folder=folder,
        file_names=np.array([f"{index}.jpg" for index in range(COUNT)]),
        image_ids=np.arange(COUNT),
        sizes=np.tile(np.array([90, 120], np.int32), (COUNT, 1)),
        offsets=np.arange(COUNT + 1),
        boxes=np.tile(np.array([10, 20, 80, 70], np.float32), (COUNT, 1)),
        labels=np.arange(COUNT),
        crowd=np.zeros(COUNT, bool),
        areas=np.ones(COUNT),
        difficult=np.zeros(COUNT, bool),
        label_map=LabelMap(tuple("abcdef"), tuple(range(COUNT))),
    )


def made(annotations, cache, augment=EVERYTHING):
    return DetectionDataset(annotations, (64, 96), (0, 0, 0), True, "pad", augment, seed=0, cache=cache)


def cache_of(kind, folder, capacity=10**7):
    return MemoryCache(COUNT, capacity, 0) if kind == "memory" else DiskCache(folder / "cache", capacity)


def never():
    raise AssertionError("decoded although it was kept")


def size_of(folder):
    return sum(path.stat().st_size for path in folder.glob("*.npy"))


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("capacity", [10**7, INDEX + FULL * 2])
def test_samples_are_the_same_with_and_without_a_cache(tmp_path, kind, capacity):
    annotations = table(tmp_path)
    cached, plain = made(annotations, cache_of(kind, tmp_path, capacity)), made(annotations, None)
    for _ in range(2):
        for epoch in range(6):
            for row in range(COUNT):
                (image, target), (wanted, wanted_target) = cached[epoch, row], plain[epoch, row]
                assert torch.equal(image, wanted)
                assert torch.equal(target.boxes, wanted_target.boxes)
                assert (target.size, target.scale) == (wanted_target.size, wanted_target.scale)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_image_is_decoded_once_at_each_reduction(tmp_path, kind, reduction):
    path = table(tmp_path).path(2)
    cache = cache_of(kind, tmp_path)
    images = {each: decode_image(path.read_bytes(), "x", each) for each in REDUCTIONS}
    for each, image in images.items():
        assert (cache.image(2, path, each, lambda image=image: image) == image).all()
    assert (cache.image(2, path, reduction, never) == images[reduction]).all()


def test_images_on_a_disk_stay_for_later_runs(tmp_path):
    path = table(tmp_path).path(0)
    image = cache_of("disk", tmp_path).image(0, path, 1, lambda: decode_image(path.read_bytes(), "x"))
    assert (cache_of("disk", tmp_path).image(5, path, 1, never) == image).all()


def test_what_is_kept_in_memory_is_not_written_to(tmp_path):
    annotations = table(tmp_path)
    cache = cache_of("memory", tmp_path)
    cache.image(0, annotations.path(0), 1, lambda: np.zeros((90, 120, 3), np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        cache.image(0, annotations.path(0), 1, never)[...] = 1
    plain = DetectionAugment(horizontal_flip=0.0, scale_jitter=None)
    dataset = DetectionDataset(annotations, (90, 120), (0, 0, 0), True, "pad", plain, seed=0, cache=cache)
    dataset[0, 0][0].fill_(1)  # a sample of its own, though nothing is changed in the image
    assert not cache.image(0, annotations.path(0), 1, never).any()


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_bound_holds_and_what_is_kept_stays(tmp_path, kind):
    annotations = table(tmp_path)
    capacity = FULL * 3 + (INDEX if kind == "memory" else 3 * 128)
    cache = cache_of(kind, tmp_path, capacity)
    for _ in range(2):
        for row in range(COUNT):
            image = np.full((90, 120, 3), row, np.uint8)
            assert (cache.image(row, annotations.path(row), 1, lambda image=image: image) == row).all()
    for row in range(3):
        assert (cache.image(row, annotations.path(row), 1, never) == row).all()
    if kind == "disk":
        assert size_of(tmp_path / "cache") == capacity
        assert size_of(tmp_path / "cache") == int((tmp_path / "cache" / "used").read_text())


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_file_that_changed_is_decoded_again(tmp_path, kind):
    annotations = table(tmp_path)
    dataset = made(annotations, cache_of(kind, tmp_path), augment=None)
    before = dataset[0, 1][0]
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((90, 120, 3), np.uint8))
    os.utime(tmp_path / "1.jpg", ns=(1, 1))
    assert before.any()
    assert not dataset[0, 1][0].any()
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((90, 121, 3), np.uint8))
    assert "the image is 121 x 90 pixels, its annotation says 120 x 90" in str(dataset[0, 1])
    (tmp_path / "1.jpg").unlink()
    assert str(dataset[0, 1]) == f"{tmp_path / '1.jpg'}: no such image; check the path"


def test_images_in_a_shard_go_by_the_shard(tmp_path):
    shard = tmp_path / "0.tar"
    shard.write_bytes(b"x")
    cache = cache_of("disk", tmp_path)
    for value in (1, 2):
        os.utime(shard, ns=(value, value))
        for name in "ab":
            image = np.full((5, 5, 3), value, np.uint8)
            assert (cache.image(0, shard / name, 1, lambda image=image: image) == value).all()
            cache.image(0, shard / name, 1, never)


def test_images_of_a_replaced_shard_are_decoded_again(tmp_path):
    annotations = table(tmp_path)
    sizes = set()
    for value in (1, 200):
        for row in range(COUNT):
            write_image(tmp_path / f"{row}.jpg", np.full((90, 120, 3), value, np.uint8))
        for path in (tmp_path / "shards").glob("*"):
            path.unlink()
        (shard,) = write_shards(annotations, tmp_path / "shards", "train", 10**6, lambda: None)
        os.utime(shard, ns=(5, 5))  # as at an address that gives neither size nor time of a shard
        sizes.add(shard.stat().st_size)
        read = read_shards(Annotations, ShardFolder(tmp_path / "shards"), "train")
        dataset = DetectionDataset(
            read, (90, 120), (0, 0, 0), True, "pad", None, seed=0, cache=cache_of("disk", tmp_path)
        )
        assert abs(int(dataset[0, 3][0].max()) - value) <= 2
    assert len(sizes) == 1


def test_loader_processes_share_the_memory_cache(tmp_path):
    if multiprocessing.get_start_method() != "fork":
        pytest.skip("processes start anew here and have a cache each")
    annotations = table(tmp_path)
    dataset = made(annotations, cache_of("memory", tmp_path), augment=None)
    for _ in evaluation_batches(dataset, 1, 2, pin_memory=False):
        pass
    for row in range(COUNT):
        wanted = decode_image(annotations.read(row), "x")
        assert (dataset.cache.image(row, annotations.path(row), 1, never) == wanted).all()


def test_a_spawned_process_has_its_fraction_of_the_memory():
    copy = pickle.loads(pickle.dumps(MemoryCache(COUNT, 10**6, workers=4)))
    assert (copy.num_images, copy.capacity, copy.workers) == (COUNT, 250_000, 1)


def write_rows(cache, folder, rows, barrier):
    barrier.wait()
    for row in rows:
        cache.image(row, folder / f"{row}.jpg", 1, lambda row=row: np.full((90, 120, 3), row, np.uint8))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_two_processes_that_add_at_once_keep_the_bound(tmp_path, kind):
    table(tmp_path)
    capacity = FULL * 4 + (INDEX if kind == "memory" else 4 * 128)
    cache = cache_of(kind, tmp_path, capacity)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    rows = list(range(COUNT))
    processes = [
        context.Process(target=write_rows, args=(cache, tmp_path, order, barrier)) for order in (rows, rows[::-1])
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    kept = 0
    for row in rows:
        image = cache.image(row, tmp_path / f"{row}.jpg", 1, lambda: np.full((90, 120, 3), 99, np.uint8))
        assert (image == row).all() or (image == 99).all()
        kept += int(image[0, 0, 0] == row)
    assert 2 <= kept <= 4  # in memory two processes may keep an image twice
    if kind == "disk":
        assert kept == 4
        assert size_of(tmp_path / "cache") == capacity


def test_what_a_killed_process_left_is_removed_and_the_room_is_counted_anew(tmp_path):
    path = table(tmp_path).path(0)
    cache_of("disk", tmp_path).image(0, path, 1, lambda: np.zeros((90, 120, 3), np.uint8))
    folder = tmp_path / "cache"
    left, written_now = folder / ".0.npy.1.partial", folder / ".1.npy.1.partial"
    left.write_bytes(bytes(1000))
    os.utime(left, (time.time() - 7200,) * 2)
    written_now.write_bytes(b"")
    (folder / "used").write_text("123456")
    cache_of("disk", tmp_path).image(0, path, 1, never)
    assert list(folder.glob(".*.partial")) == [written_now]
    assert int((folder / "used").read_text()) == size_of(folder) == FULL + 128


def test_room_whose_count_was_being_written_is_counted_anew(tmp_path):
    annotations = table(tmp_path)
    cache = cache_of("disk", tmp_path)
    for row in range(2):
        cache.image(row, annotations.path(row), 1, lambda: np.zeros((90, 120, 3), np.uint8))
        used = (cache.folder / "used").read_text()
        (cache.folder / "used").write_text("")
    assert int(used) == size_of(cache.folder) == 2 * (FULL + 128)


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file/images: the cache of images cannot be used \(.*\); make it readable"):
        DiskCache(tmp_path / "file" / "images", 10**6)


def test_a_folder_that_goes_during_the_run_is_one_sentence(tmp_path):
    annotations = table(tmp_path)
    dataset = made(annotations, cache_of("disk", tmp_path))
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (tmp_path / "cache").rmdir()
    assert "cache: the cache of images cannot be used (No such file or directory)" in str(dataset[0, 0])


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    dataset = made(table(tmp_path), cache_of("disk", tmp_path))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "cache: the disk is full before the cache of images has reached data.cache_gb; free space" in str(
        dataset[0, 0]
    )
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_a_damaged_file_of_the_cache_is_refused_by_name(tmp_path):
    annotations = table(tmp_path)
    dataset = made(annotations, cache_of("disk", tmp_path), augment=None)
    dataset[0, 0]
    (kept,) = (tmp_path / "cache").glob("*.npy")
    for content in (b"", b"nothing", kept.read_bytes()[:1000]):
        kept.write_bytes(content)
        assert str(dataset[0, 0]) == f"{kept}: not a whole image of the cache; remove the file and start again"


def test_a_recipe_chooses_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFDET_HOME", str(tmp_path / "home"))
    assert make_cache(DetectionData(), COUNT) is None
    memory = make_cache(DetectionData(cache="memory", cache_gb=0.01, workers=3), COUNT, processes=2)
    assert (memory.capacity, memory.workers) == (5_000_000, 3)
    disk = make_cache(DetectionData(cache="disk", cache_gb=2), COUNT)
    assert (disk.folder, disk.capacity) == (tmp_path / "home" / "images", 2 * 10**9)
    monkeypatch.setenv("HOME", str(tmp_path))
    elsewhere = make_cache(DetectionData(cache="disk", cache_folder="~/a"), COUNT)
    assert elsewhere.folder == Path(tmp_path / "a")


def test_memory_that_cannot_hold_anything_or_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"^5e-07 GB for the cache are less than the index of 6 images; raise"):
        MemoryCache(COUNT, 500, 0)
    with pytest.raises(DataError, match=r"^1e\+06 GB for the cache are more than the system has \(.*\); lower"):
        MemoryCache(COUNT, 10**15, 0)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_file_that_changed_with_equal_size_and_time_is_decoded_again(tmp_path, kind):
    path = tmp_path / "image.bmp"
    path.write_bytes(b"one")
    status = path.stat()
    cache = cache_of(kind, tmp_path)
    cache.image(0, path, 1, lambda: np.zeros((90, 120, 3), np.uint8))
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.image(0, path, 1, lambda: np.ones((90, 120, 3), np.uint8)).all()
