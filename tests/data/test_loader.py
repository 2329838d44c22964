import errno
import functools
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from effdet.config import ClassificationAugment, DetectionAugment, DetectionData, ProgressiveConfig, SplitConfig
from effdet.data import loader
from effdet.data.annotations import Annotations
from effdet.data.classification_dataset import ClassificationDataset
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.formats import read_table
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.data.loader import Prefetch, evaluation_batches, train_batches
from effdet.data.train_order import TrainOrder
from effdet.errors import ConfigError, DataError
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
        difficult=np.zeros(counts.sum(), bool),
        label_map=LabelMap(("a", "b", "c"), (1, 2, 3)),
    )


def training(folder, **changes):
    return DetectionDataset(table(folder, **changes), SIZE, FILL, True, "pad", DetectionAugment(), seed=3)


def classifying(folder, augment=None, progressive=None, epochs=3):
    """The same images with the labels 0, 1, 2, 0, 1."""
    names = table(folder).file_names
    labels = ImageLabels(
        source=folder,
        image_folder=folder,
        file_names=names,
        labels=np.arange(5) % 3,
        label_map=LabelMap(("a", "b", "c"), (0, 1, 2)),
    )
    return ClassificationDataset(labels, SIZE, 0.875, "bicubic", augment, progressive, epochs, seed=3)


def run_batches(dataset, batch_size, start, total, workers, **processes):
    """Batches of the steps from `start` to before `total`."""
    order = TrainOrder(len(dataset), batch_size, seed=0)
    return train_batches(dataset, order, start, total, workers, pin_memory=False, **processes)


def same(first, second):
    assert torch.equal(first.images, second.images)
    assert len(first.targets) == len(second.targets)
    for one, other in zip(first.targets, second.targets, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.labels, other.labels)
        assert (one.index, one.size, one.scale) == (other.index, other.size, other.scale)
    return True


@pytest.mark.parametrize("augment", [DetectionAugment(), DetectionAugment(scale_jitter=None), None])
def test_a_sample_is_an_image_of_the_input_size_with_its_target(tmp_path, augment):
    dataset = DetectionDataset(table(tmp_path), SIZE, FILL, True, "pad", augment, seed=0)
    for row in range(5):
        image, target = dataset[0, row]
        assert image.shape == (3, *SIZE)
        assert image.dtype == torch.uint8
        assert target.boxes.dtype == torch.float32
        assert target.labels.dtype == torch.int64
        assert target.boxes.shape == (len(target.labels), 4)
        assert (target.index, target.size) == (row, (50, 70))


def test_crowds_are_no_targets(tmp_path):
    dataset = DetectionDataset(table(tmp_path), SIZE, FILL, True, "pad", DetectionAugment(scale_jitter=None), seed=0)
    assert [len(dataset[0, row][1].labels) for row in range(5)] == [0, 0, 1, 2, 3]


def test_evaluation_uses_the_letterbox(tmp_path):
    dataset = DetectionDataset(table(tmp_path), SIZE, FILL, True, "pad", None, seed=0)
    image, target = dataset[0, 3]
    assert target.scale == (64 / 50, 90 / 70)
    assert (image[:, :, 90:] == torch.tensor(FILL)[:, None, None]).all()
    vertical, horizontal = target.scale
    wanted = dataset.table.boxes[1 + 2 : 1 + 2 + 2] * np.array([horizontal, vertical] * 2, np.float32)
    assert np.allclose(target.boxes.numpy(), wanted)


def test_a_sample_depends_on_seed_epoch_and_row_alone(tmp_path):
    annotations = table(tmp_path)
    dataset = training(tmp_path)
    first = dataset[4, 2]
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(9)
    dataset[1, 1]
    again = DetectionDataset(annotations, SIZE, FILL, True, "pad", DetectionAugment(), seed=3)[4, 2]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].boxes, again[1].boxes)
    assert not torch.equal(first[0], dataset[5, 2][0])
    assert not torch.equal(
        first[0], DetectionDataset(annotations, SIZE, FILL, True, "pad", DetectionAugment(), seed=4)[4, 2][0]
    )


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    dataset = training(tmp_path)
    alone = list(run_batches(dataset, 2, 0, 6, 0))
    helped = list(run_batches(dataset, 2, 0, 6, 2))
    resumed = list(run_batches(dataset, 2, 3, 6, 1))
    assert len(alone) == len(helped) == 6
    assert all(map(same, alone, helped))
    assert all(itertools.starmap(same, zip(alone[3:], resumed, strict=True)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_has_the_size_of_its_step(tmp_path, workers):
    dataset, sizes = training(tmp_path), ((64, 96), (64, 64))
    order = TrainOrder(5, 2, 0, sizes=sizes, size_of_row=np.array([0, 1, 0, 1, 0]), scales=(1.0, 2.0))
    batches = list(train_batches(dataset, order, 0, 6, workers, pin_memory=False))
    for batch, keys in zip(batches, order.batches(0, 6), strict=True):
        assert {key.size for key in keys} == {tuple(batch.images.shape[2:])}
        assert batch.indices == [key.row for key in keys]
    assert len({batch.images.shape for batch in batches}) > 2


def test_the_loader_leaves_the_global_random_streams_alone(tmp_path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(run_batches(training(tmp_path), 2, 0, 2, 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_channels_last(tmp_path, workers):
    batch = next(run_batches(training(tmp_path), 4, 0, 1, workers))
    assert batch.images.shape == (4, 3, *SIZE)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_gives_every_image_once_in_order(tmp_path):
    dataset = DetectionDataset(table(tmp_path), SIZE, FILL, True, "pad", None, seed=0)
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
    batches = run_batches(training(tmp_path), 2, 0, 10_000, 2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path):
    wrong = training(tmp_path, sizes=(50, 71))[0, 1]
    assert isinstance(wrong, DataError)
    assert "1.png: the image is 70 x 50 pixels, its annotation says 71 x 50 (width x height); use" in str(wrong)
    exchanged = training(tmp_path, sizes=(70, 50))[0, 1]
    assert str(exchanged).endswith(
        "says 50 x 70 (width x height); width and height are exchanged in the annotations, correct them there; so they "
        "are in 5 of 5 images that were compared"
    )
    assert not isinstance(training(tmp_path, sizes=(0, 0))[0, 1], DataError)


def test_an_image_that_exif_rotates_is_not_annotated_upright(tmp_path):
    dataset = training(tmp_path, sizes=(70, 50))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 70)).save(tmp_path / "1.png", format="JPEG", exif=exif)
    assert str(dataset[0, 1]).endswith("made without the EXIF rotation, annotate the upright image")
    assert str(dataset[0, 2]).endswith("so they are in 4 of 5 images that were compared")


SCRIPT = """
    import signal, sys, time
    from pathlib import Path
    import multiprocessing
    sys.path[:0] = {path!r}
    from test_loader import run_batches, training

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells turn it off for what is in the background
        multiprocessing.set_start_method({method!r})
        for batch in run_batches(training(Path({folder!r})), 2, 0, {steps}, {workers}):
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
    alone = [int(batch.images.sum()) for batch in run_batches(training(tmp_path), 2, 0, 3, 0)]
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
    dataset = classifying(tmp_path, ClassificationAugment(rand_augment={"layers": 2}, random_erasing=0.5))
    runs = [list(run_batches(dataset, 2, 0, 6, workers)) for workers in (0, 2)]
    for alone, helped in zip(*runs, strict=True):
        assert torch.equal(alone.images, helped.images)
        assert torch.equal(alone.labels, helped.labels)
        assert alone.indices == helped.indices
    resumed = next(run_batches(dataset, 2, 3, 6, 1))
    assert torch.equal(resumed.images, runs[0][3].images)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_size_may_change_from_epoch_to_epoch(tmp_path, workers):
    stages = ProgressiveConfig(image_size=(32, 48, 64))
    dataset = classifying(tmp_path, ClassificationAugment(), stages)
    batches = list(run_batches(dataset, 2, 0, 6, workers))
    assert [batch.images.shape[2:] for batch in batches] == [(side, side) for side in (32, 32, 48, 48, 64, 64)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_of_a_classifier_is_one_message_too(tmp_path, workers):
    dataset = classifying(tmp_path)
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png: not a whole image"):
        list(evaluation_batches(dataset, 2, workers, pin_memory=False))


def test_images_with_boxes_come_as_batches(tmp_path):
    assert isinstance(next(evaluation_batches(training(tmp_path), 2, 1, pin_memory=False)), Batch)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_per_process_batches_together_are_the_batches_of_one_process(tmp_path, world_size):
    dataset = classifying(tmp_path, ClassificationAugment())
    whole = list(run_batches(dataset, 4, 0, 3, 0))
    by_rank = [list(run_batches(dataset, 4, 0, 3, 0, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for batch, *sections in zip(whole, *by_rank, strict=True):
        assert all(len(section.images) == 4 // world_size for section in sections)
        assert torch.equal(torch.cat([section.images for section in sections]), batch.images)
        assert [index for section in sections for index in section.indices] == batch.indices


def test_an_indivisible_batch_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"set train\.batch_size to 3$"):
        run_batches(training(tmp_path), 4, 0, 3, 0, rank=0, world_size=3)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_evaluation_over_processes_gives_every_batch_to_one_of_them(tmp_path, world_size):
    dataset = classifying(tmp_path)
    whole = list(evaluation_batches(dataset, 2, 0, False))
    by_rank = [list(evaluation_batches(dataset, 2, 0, False, rank, world_size)) for rank in range(world_size)]
    assert sum(map(len, by_rank)) == len(whole)
    for number, batch in enumerate(whole):
        section = by_rank[number % world_size][number // world_size]
        assert section.indices == batch.indices
        assert torch.equal(section.images, batch.images)


class Rows:
    """Ten black images with their rows; of row 7 something happens instead."""

    def __init__(self, event=None):
        self.event = event

    def __len__(self):
        return 10

    def __getitem__(self, key):
        if self.event is not None and key.row == 7:
            self.event()
        return torch.zeros(3, 4, 4, dtype=torch.uint8), key.row

    def pack(self, targets):
        return targets

    def unpack(self, images, packed):
        return packed


def kill():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    time.sleep(0.3)
    os._exit(3)


@pytest.mark.parametrize(
    ("event", "how", "advice"),
    [(kill, "SIGKILL", r"memory ran out: lower data\.workers"), (leave, "exit code 3", r"data\.workers=0")],
)
def test_a_loader_process_that_dies_is_one_message(event, how, advice):
    with pytest.raises(
        DataError, match=rf"^1 of the loader processes died \(process \d+: {how}\); .*{advice}"
    ) as error:
        list(evaluation_batches(Rows(event), 1, 2, False))
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()


def test_a_loader_process_that_dies_during_a_step_is_reported_after_it():
    list(evaluation_batches(Rows(), 10, 1, False))
    handler = signal.getsignal(signal.SIGCHLD)
    batches = evaluation_batches(Rows(kill), 4, 1, False)
    assert next(batches) == [0, 1, 2, 3]
    (worker,) = multiprocessing.active_children()
    worker.join(20)  # it dies over the second batch, loaded ahead; the step is not interrupted by that
    with pytest.raises(DataError, match="1 of the loader processes died"):
        next(batches)
    batches.close()
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_a_loader_that_hangs_is_one_message(monkeypatch):
    monkeypatch.setattr(loader, "LONGEST_WAIT", 0.3)
    with pytest.raises(DataError, match=r"gave no batch within 0\.005 minutes; check whether the disk"):
        list(evaluation_batches(Rows(functools.partial(time.sleep, 1)), 10, 1, False))


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows does not stop processes")
def test_loader_processes_that_hang_are_killed_in_the_end(monkeypatch):
    monkeypatch.setattr(loader, "ENDING", 0.2)
    batches = evaluation_batches(Rows(), 1, 2, False)
    next(batches)
    workers = multiprocessing.active_children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    batches.close()
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL] * 2
    assert not multiprocessing.active_children()


def test_loader_processes_that_exit_normally_are_no_error():
    for _ in range(2):
        assert list(evaluation_batches(Rows(), 5, 2, False)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    subprocess.run([sys.executable, "-c", ""], check=True)  # the end of any other process is none either
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say who sent a signal")
def test_loader_processes_end_only_on_the_signal_of_their_parent():
    batches = evaluation_batches(Rows(), 1, 1, False)
    next(batches)
    (worker,) = multiprocessing.active_children()
    subprocess.run(["sh", "-c", f"kill -TERM {worker.pid}"], check=True)
    assert [row for (row,) in batches] == list(range(1, 10))
    batches = evaluation_batches(Rows(), 1, 1, False)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    batches.close()


def test_without_a_gpu_batches_come_as_they_are():
    batches = evaluation_batches(Rows(), 5, 0, False)
    assert list(Prefetch(batches, torch.device("cpu"))) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_copied_to_the_gpu_in_order(tmp_path):
    device, dataset = torch.device("cuda"), classifying(tmp_path)
    here = list(evaluation_batches(dataset, 2, 0, False))
    there = list(Prefetch(evaluation_batches(dataset, 2, 1, True), device))
    for batch, copied in zip(here, there, strict=True):
        assert copied.images.device.type == copied.labels.device.type == "cuda"
        assert torch.equal(copied.images.cpu(), batch.images)
        assert copied.indices == batch.indices


def test_real_photos_give_targets_inside_their_image(coco128):
    data = DetectionData(root=coco128, val=None, train=SplitConfig(images="images", annotations="instances.json"))
    annotations = read_table(data, "train")
    dataset = DetectionDataset(annotations, (256, 320), FILL, True, "pad", DetectionAugment(), seed=0)
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


def test_where_shared_memory_is_full_the_images_are_the_same(tmp_path, monkeypatch):
    data = training(tmp_path)
    expected = list(evaluation_batches(data, 2, workers=0, pin_memory=False))

    def full(_):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"
        )

    monkeypatch.setattr(loader, "default_collate", full)
    for workers in (0, 2):
        batches = list(evaluation_batches(data, 2, workers=workers, pin_memory=False))
        assert all(
            torch.equal(one.images, other.images) and one.images.stride() == other.images.stride()
            for one, other in zip(batches, expected, strict=True)
        )


def test_where_the_temporary_folder_has_a_long_path_the_images_are_the_same(tmp_path, monkeypatch):
    data = training(tmp_path)
    expected = list(evaluation_batches(data, 2, workers=0, pin_memory=False))
    long = tmp_path / ("long" * 20) / ("path" * 20)  # beyond the 107 characters of a socket
    long.mkdir(parents=True)
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(long))
    monkeypatch.setattr(loader, "LONGEST_WAIT", 30.0)
    batches = list(evaluation_batches(data, 2, workers=2, pin_memory=False))
    assert all(torch.equal(one.images, other.images) for one, other in zip(batches, expected, strict=True))


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EMFILE, "ulimit -n 4096"), (errno.ENOSPC, "--shm-size"), (errno.EAGAIN, "lower data")]
)
def test_loader_processes_that_cannot_be_started_are_an_error_with_a_remedy(tmp_path, monkeypatch, number, advice):
    def fail():
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("effdet.data.loader_processes.multiprocessing.Queue", fail)
    with pytest.raises(DataError, match=rf"^the 2 loader processes cannot be started \(.*{advice}"):
        next(evaluation_batches(training(tmp_path), 2, workers=2, pin_memory=False))
