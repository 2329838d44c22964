import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest
import torch

from effdet.config import ClassificationAugment, DetectionAugment, DetectionData, ProgressiveConfig, SplitConfig
from effdet.data.annotations import Annotations, LabelMap
from effdet.data.classify import ClassificationDataset
from effdet.data.dataset import DetectionDataset
from effdet.data.formats import read_annotations
from effdet.data.labels import ImageLabels
from effdet.data.loader import TrainSampler, epoch_order, evaluation_batches, steps_per_epoch, train_batches
from effdet.errors import DataError
from effdet.structures import Batch, LabelBatch

SIZE = (64, 96)
FILL = (124, 116, 104)


def table(folder, count=5, sizes=(50, 70)):
    """`count` noisy images; image i has i boxes, the last of them a crowd."""
    rng = np.random.default_rng(0)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    counts = np.arange(count)
    corners = rng.uniform(0, 30, (counts.sum(), 2))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    crowd = np.zeros(counts.sum(), bool)
    crowd[offsets[2:] - 1] = True
    return Annotations(
        source=folder,
        image_folder=folder,
        file_names=np.array([f"{index}.png" for index in range(count)]),
        image_ids=np.arange(count),
        sizes=np.tile(np.array(sizes, np.int32), (count, 1)),
        offsets=offsets,
        boxes=np.concatenate([corners, corners + 15], axis=1).astype(np.float32),
        labels=np.arange(counts.sum()) % 3,
        crowd=crowd,
        areas=np.full(counts.sum(), 225.0),
        label_map=LabelMap(("a", "b", "c"), (1, 2, 3)),
    )


def training(folder, **changes):
    return DetectionDataset(table(folder, **changes), SIZE, FILL, DetectionAugment(), seed=3)


def classifying(folder, augment=None, progressive=None, epochs=3):
    """The same images with the labels 0, 1, 2, 0, 1."""
    names = table(folder).file_names
    labels = ImageLabels(folder, folder, names, np.arange(5) % 3, LabelMap(("a", "b", "c"), (0, 1, 2)))
    return ClassificationDataset(labels, SIZE, 0.875, "bicubic", augment, progressive, epochs, seed=3)


def same(first, second):
    assert torch.equal(first.images, second.images)
    assert len(first.targets) == len(second.targets)
    for one, other in zip(first.targets, second.targets, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.labels, other.labels)
        assert (one.index, one.size, one.scale) == (other.index, other.size, other.scale)
    return True


def test_only_full_batches_make_an_epoch_unless_there_is_none():
    assert [steps_per_epoch(images, 4) for images in (12, 11, 4, 3, 1)] == [3, 2, 1, 1, 1]


def test_an_epoch_has_every_image_once_in_an_order_of_its_own():
    orders = [epoch_order(100, seed, epoch).tolist() for seed in (0, 1) for epoch in range(3)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert epoch_order(100, 1, 2).tolist() == orders[5]


def test_the_sampler_gives_the_batches_of_the_whole_run():
    batches = list(TrainSampler(11, 4, seed=0, start_step=0, total_steps=7))
    assert [len(batch) for batch in batches] == [4] * 7
    assert [batch[0][0] for batch in batches] == [0, 0, 1, 1, 2, 2, 3]
    for epoch in range(3):
        rows = [row for batch in batches for e, row in batch if e == epoch]
        assert len(set(rows)) == 8
    assert [len(batch) for batch in TrainSampler(3, 4, seed=0, start_step=0, total_steps=2)] == [3, 3]


@pytest.mark.parametrize("start", [0, 1, 2, 5, 7])
def test_a_resumed_sampler_gives_the_rest_of_the_same_run(start):
    whole = list(TrainSampler(11, 4, seed=0, start_step=0, total_steps=7))
    rest = TrainSampler(11, 4, seed=0, start_step=start, total_steps=7)
    assert list(rest) == whole[start:]
    assert len(rest) == 7 - start


@pytest.mark.parametrize("augment", [DetectionAugment(), DetectionAugment(scale_jitter=None), None])
def test_a_sample_is_an_image_of_the_input_size_with_its_target(tmp_path, augment):
    dataset = DetectionDataset(table(tmp_path), SIZE, FILL, augment, seed=0)
    for row in range(5):
        image, target = dataset[0, row]
        assert image.shape == (3, *SIZE)
        assert image.dtype == torch.uint8
        assert target.boxes.dtype == torch.float32
        assert target.labels.dtype == torch.int64
        assert target.boxes.shape == (len(target.labels), 4)
        assert (target.index, target.size) == (row, (50, 70))


def test_crowds_are_no_targets(tmp_path):
    dataset = DetectionDataset(table(tmp_path), SIZE, FILL, DetectionAugment(scale_jitter=None), seed=0)
    assert [len(dataset[0, row][1].labels) for row in range(5)] == [0, 0, 1, 2, 3]


def test_evaluation_takes_the_letterbox(tmp_path):
    dataset = DetectionDataset(table(tmp_path), SIZE, FILL, None, seed=0)
    image, target = dataset[0, 3]
    assert target.scale == (64 / 50, 90 / 70)
    assert (image[:, :, 90:] == torch.tensor(FILL)[:, None, None]).all()
    vertical, horizontal = target.scale
    wanted = dataset.annotations.boxes[1 + 2 : 1 + 2 + 2] * np.array([horizontal, vertical] * 2, np.float32)
    assert np.allclose(target.boxes.numpy(), wanted)


def test_a_sample_depends_on_seed_epoch_and_row_alone(tmp_path):
    annotations = table(tmp_path)
    dataset = training(tmp_path)
    first = dataset[4, 2]
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(9)
    dataset[1, 1]
    again = DetectionDataset(annotations, SIZE, FILL, DetectionAugment(), seed=3)[4, 2]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].boxes, again[1].boxes)
    assert not torch.equal(first[0], dataset[5, 2][0])
    assert not torch.equal(first[0], DetectionDataset(annotations, SIZE, FILL, DetectionAugment(), seed=4)[4, 2][0])


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    dataset = training(tmp_path)
    alone = list(train_batches(dataset, 2, 0, 0, 6, workers=0, pin_memory=False))
    helped = list(train_batches(dataset, 2, 0, 0, 6, workers=2, pin_memory=False))
    resumed = list(train_batches(dataset, 2, 0, 3, 6, workers=1, pin_memory=False))
    assert len(alone) == len(helped) == 6
    assert all(map(same, alone, helped))
    assert all(itertools.starmap(same, zip(alone[3:], resumed, strict=True)))


def test_the_loader_leaves_the_global_random_streams_alone(tmp_path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(train_batches(training(tmp_path), 2, 0, 0, 2, workers=1, pin_memory=False))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_channels_last(tmp_path, workers):
    batch = next(train_batches(training(tmp_path), 4, 0, 0, 1, workers, pin_memory=False))
    assert batch.images.shape == (4, 3, *SIZE)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_gives_every_image_once_in_order(tmp_path):
    dataset = DetectionDataset(table(tmp_path), SIZE, FILL, None, seed=0)
    batches = list(evaluation_batches(dataset, 2, workers=2, pin_memory=False))
    assert [len(batch.images) for batch in batches] == [2, 2, 1]
    assert [target.index for batch in batches for target in batch.targets] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_sentence_and_ends_the_workers(tmp_path, workers):
    dataset = training(tmp_path)
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png: not a whole image") as error:
        list(evaluation_batches(dataset, 1, workers, pin_memory=False))
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()


def test_leaving_early_ends_the_workers(tmp_path):
    batches = train_batches(training(tmp_path), 2, 0, 0, 10_000, workers=2, pin_memory=False)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path):
    wrong = training(tmp_path, sizes=(50, 71))[0, 1]
    assert isinstance(wrong, DataError)
    assert "1.png: the image is 70 x 50 pixels, its annotation says 71 x 50 (width x height); use" in str(wrong)
    swapped = training(tmp_path, sizes=(70, 50))[0, 1]
    assert "without the EXIF rotation" in str(swapped)
    assert not isinstance(training(tmp_path, sizes=(0, 0))[0, 1], DataError)


SCRIPT = """
    import sys, time
    from pathlib import Path
    import multiprocessing
    sys.path[:0] = {path!r}
    from test_loader import table, training
    from effdet.data.loader import train_batches

    if __name__ == "__main__":
        multiprocessing.set_start_method({method!r})
        for batch in train_batches(training(Path({folder!r})), 2, 0, 0, {steps}, {workers}, False):
            print(int(batch.images.sum()), flush=True)
            time.sleep({pause})
"""


def script(folder, **values):
    values = {"path": [os.path.dirname(__file__), *sys.path], "folder": str(folder), **values}
    path = folder / "run.py"
    path.write_text(textwrap.dedent(SCRIPT.format(**values)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(path)], start_new_session=True, **pipes)


def test_workers_can_be_spawned(tmp_path):
    out, errors = script(tmp_path, method="spawn", steps=3, workers=1, pause=0).communicate(timeout=60)
    alone = [int(batch.images.sum()) for batch in train_batches(training(tmp_path), 2, 0, 0, 3, 0, False)]
    assert [int(line) for line in out.split()] == alone, errors


def test_ctrl_c_is_answered_by_the_main_process_alone(tmp_path):
    process = script(tmp_path, method=multiprocessing.get_start_method(), steps=10_000, workers=2, pause=0.1)
    process.stdout.readline()
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors.count("Traceback") == 1
    assert "KeyboardInterrupt" in errors


@pytest.mark.parametrize("workers", [0, 2])
def test_images_with_a_class_come_as_label_batches(tmp_path, workers):
    batches = list(evaluation_batches(classifying(tmp_path), 2, workers, pin_memory=False))
    assert all(isinstance(batch, LabelBatch) for batch in batches)
    assert [batch.images.shape for batch in batches] == [(2, 3, *SIZE), (2, 3, *SIZE), (1, 3, *SIZE)]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1, 2, 0, 1]
    assert [index for batch in batches for index in batch.indices] == [0, 1, 2, 3, 4]
    assert batches[0].labels.dtype == torch.int64
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)
    assert batches[0].images.dtype == torch.uint8


def test_label_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    dataset = classifying(tmp_path, ClassificationAugment(rand_layers=2, random_erasing=0.5))
    runs = [list(train_batches(dataset, 2, 0, 0, 6, workers, pin_memory=False)) for workers in (0, 2)]
    for alone, helped in zip(*runs, strict=True):
        assert torch.equal(alone.images, helped.images)
        assert torch.equal(alone.labels, helped.labels)
        assert alone.indices == helped.indices
    resumed = next(train_batches(dataset, 2, 0, 3, 6, 1, pin_memory=False))
    assert torch.equal(resumed.images, runs[0][3].images)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_size_may_change_from_epoch_to_epoch(tmp_path, workers):
    stages = ProgressiveConfig(image_size=(32, 48, 64))
    dataset = classifying(tmp_path, ClassificationAugment(), stages)
    batches = list(train_batches(dataset, 2, 0, 0, 6, workers, pin_memory=False))
    assert [batch.images.shape[2:] for batch in batches] == [(side, side) for side in (32, 32, 48, 48, 64, 64)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_of_a_classifier_is_one_sentence_too(tmp_path, workers):
    dataset = classifying(tmp_path)
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png: not a whole image"):
        list(evaluation_batches(dataset, 2, workers, pin_memory=False))


def test_images_with_boxes_come_as_batches(tmp_path):
    assert isinstance(next(evaluation_batches(training(tmp_path), 2, 1, pin_memory=False)), Batch)


def test_real_photos_give_targets_inside_their_image(coco128):
    data = DetectionData(root=coco128, train=SplitConfig(images="images", annotations="instances.json"))
    annotations = read_annotations(data, "train")
    dataset = DetectionDataset(annotations, (256, 320), FILL, DetectionAugment(), seed=0)
    limits = torch.tensor([320, 256, 320, 256])
    kept = 0
    for row in range(0, 128, 4):
        image, target = dataset[0, row]
        assert image.shape == (3, 256, 320)
        assert (target.boxes >= 0).all()
        assert (target.boxes <= limits).all()
        assert (target.boxes[:, 2:] - target.boxes[:, :2] >= 1).all()
        kept += len(target.labels)
    assert kept > 50
