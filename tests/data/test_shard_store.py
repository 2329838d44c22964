import io
import json
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.config import DetectionAugment, make_config
from effdet.data import shard_store as shards
from effdet.data.annotations import Annotations
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.formats import read_table
from effdet.data.formats.coco import read_coco
from effdet.data.formats.folders import read_folders
from effdet.data.formats.shard_index import read_shards
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import repair_boxes
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.data.loader import evaluation_batches
from effdet.data.shard_store import ShardAddress, ShardFolder
from effdet.data.shard_writer import write_shards
from effdet.errors import ConfigError, DataError
from effdet.report.pictures import write_image

NUM_IMAGES = 9
SMALL = 9000  # bytes after which a shard is full: two images in each


def picture(rng):
    """Noise, which compresses so little that a JPEG has about 5 kB."""
    return rng.integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A COCO data set: sparse ids, a sub-folder, a name with dots, a crowd, an image without boxes, a PNG."""
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    names = ["b/one.jpg", "a.b.c.jpg", "three.png", *(f"{number}.jpg" for number in range(NUM_IMAGES - 3))]
    boxes = []
    for row, name in enumerate(names):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / "images" / name, picture(rng))
        for number in range(0 if row == 3 else 2):
            boxes.append({"image_id": row * 7, "category_id": 3 + 6 * number, "bbox": [1.3, 2, 20 + row, 17.1]})
    boxes[0] |= {"iscrowd": 1, "area": 55.5}
    content = {
        "images": [{"id": row * 7, "file_name": name, "height": 40, "width": 50} for row, name in enumerate(names)],
        "annotations": [{"id": number, **box} for number, box in enumerate(boxes)],
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    (root / "boxes.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def table(files) -> Annotations:
    return repair_boxes(read_coco(SplitFiles(files / "boxes.json", files / "images")))


@pytest.fixture
def labelled(tmp_path) -> ImageLabels:
    rng = np.random.default_rng(1)
    for name in ("ant", "bee", "cow"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(2):
            write_image(tmp_path / "classes" / name / f"{number}.jpg", picture(rng))
    return read_folders(SplitFiles(tmp_path / "classes", tmp_path / "classes"))


def write(table, folder, name="train", shard_bytes=SMALL):
    return write_shards(table, folder, name, shard_bytes, lambda: None)


def detection(folder, **data):
    """A recipe of shards that are all to train on; `val` may say otherwise."""
    return make_config({"data": {"format": "shards", "root": str(folder), "val": None, **data}}).data


def classification(folder, val=None):
    data = {"format": "shards", "root": str(folder), "val": val}
    return make_config({"task": "classification", "data": data}).data


def columns(table):
    names = ("file_names", "image_ids", "sizes", "offsets", "boxes", "labels", "crowd", "areas")
    return {name: getattr(table, name) for name in names if hasattr(table, name)}


def assert_equal(one, other):
    assert one.label_map == other.label_map
    for name, column in columns(one).items():
        assert column.dtype == getattr(other, name).dtype, name
        np.testing.assert_array_equal(column, getattr(other, name), err_msg=name)


def rewrite_index(folder, **changes):
    path = folder / "train.index.npz"
    with np.load(path) as archive:
        content = {**archive, **changes}
    np.savez(path, **content)


# What is written


def test_the_images_in_shards_are_the_files_byte_for_byte(table, tmp_path):
    paths = write(table, tmp_path)
    assert [path.name for path in paths] == [f"train-{number:06d}.tar" for number in range(5)]
    images = []
    for path in paths:
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert all(member.mtime == member.uid == member.gid == 0 for member in members)
            images += [tar.extractfile(member).read() for member in members if not member.name.endswith(".json")]
    assert images == [table.path(row).read_bytes() for row in range(len(table))]


def test_the_table_of_shards_is_that_of_the_files(table, tmp_path):
    write(table, tmp_path)
    read = read_table(detection(tmp_path), "train")
    assert_equal(read, table)
    assert [read.read(row) for row in range(len(read))] == [table.read(row) for row in range(len(table))]
    assert read.shards.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert read.path(1) == tmp_path / "train-000000.tar" / "000000001.jpg"
    assert table.shards is None


def test_positions_in_the_index_are_those_of_tarfile(table, tmp_path):
    paths = write(table, tmp_path)
    store = read_table(detection(tmp_path), "train").store
    for row in range(len(table)):
        with tarfile.open(paths[store.shards[row]]) as tar:
            member = tar.getmember(str(store.members[row]))
        assert (member.offset_data, member.size) == (store.starts[row], store.lengths[row])


def test_equal_tables_give_equal_bytes(table, tmp_path):
    for folder in ("one", "two"):
        write(table, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_webdataset_reads_the_shards(table, labelled, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    paths = [str(path) for path in write(table, tmp_path)]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode())
    assert len(samples) == NUM_IMAGES
    for row, sample in enumerate(samples):
        known = sample["json"]
        assert sample["__key__"] == f"{row:09d}"
        assert known["file_name"] == table.file_names[row]
        assert known["image_id"] == row * 7
        assert known["size"] == [40, 50]
        np.testing.assert_array_equal(np.array(known["boxes"], np.float32).reshape(-1, 4), table.boxes[table.rows(row)])
    assert samples[0]["json"]["names"] == ["cat", "dog"]
    assert samples[0]["json"]["category_ids"] == [3, 9]
    assert samples[0]["json"]["crowd"] == [True, False]
    (path,) = write(labelled, tmp_path / "classes", shard_bytes=10**6)
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
    assert [sample["cls"] for sample in samples] == [0, 0, 1, 1, 2, 2]
    assert samples[5]["json"] == {"file_name": "cow/1.jpg", "label": 2, "name": "cow"}
    assert samples[5]["jpg"] == labelled.read(5)


def test_shards_are_never_overwritten(table, tmp_path):
    write(table, tmp_path)
    with pytest.raises(DataError, match=r"train\.index\.npz: exists already"):
        write(table, tmp_path)
    (tmp_path / "train.index.npz").unlink()
    with pytest.raises(DataError, match=r"train-000000\.tar: exists already"):
        write(table, tmp_path)
    write(table, tmp_path, "val")


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, OSError])
def test_a_writing_that_is_broken_off_leaves_nothing(table, tmp_path, error):
    images = []

    def third():
        images.append(None)
        if len(images) == 3:
            raise error("no more")

    with pytest.raises(DataError if error is OSError else error, match="no more"):
        write_shards(table, tmp_path, "train", SMALL, third)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_is_gone_stops_the_writing(labelled, tmp_path):
    labelled.path(4).unlink()
    with pytest.raises(DataError, match=r"cow/0\.jpg: no such image"):
        write(labelled, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_image_stops_the_writing(labelled, tmp_path):
    labelled.path(4).write_bytes(b"")
    with pytest.raises(DataError, match=r"cow/0\.jpg: the image file is empty; write it again, or remove it"):
        write(labelled, tmp_path / "out")


# What is read


def test_samples_from_shards_are_those_from_files_bit_for_bit(table, tmp_path):
    write(table, tmp_path)
    augment = DetectionAugment(mosaic=0.5, mixup=0.5, copy_paste=0.5)
    sets = [
        DetectionDataset(source, (64, 64), (0, 0, 0), True, "pad", augment, 3)
        for source in (table, read_table(detection(tmp_path), "train"))
    ]
    for row in range(NUM_IMAGES):
        (image, target), (expected, expected_target) = (dataset[1, row] for dataset in sets)
        assert torch.equal(image, expected)
        assert torch.equal(target.boxes, expected_target.boxes)
        assert torch.equal(target.labels, expected_target.labels)


def test_loader_processes_read_shards(table, tmp_path):
    write(table, tmp_path)
    read = read_table(detection(tmp_path), "train")
    read.read(0)  # opens a shard before the processes begin
    batches = [
        list(evaluation_batches(DetectionDataset(source, (64, 64), (0, 0, 0), True, "pad", None, 0), 4, workers, False))
        for source, workers in ((table, 0), (read, 2))
    ]
    for expected, batch in zip(*batches, strict=True):
        assert torch.equal(batch.images, expected.images)


def test_a_table_of_shards_travels_to_another_process(table, tmp_path):
    write(table, tmp_path)
    read = read_table(detection(tmp_path), "train")
    read.read(0)
    copy = pickle.loads(pickle.dumps(read))
    assert [copy.read(row) for row in range(len(copy))] == [table.read(row) for row in range(len(table))]


def test_shards_are_read_where_the_system_reads_at_no_position(table, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pread")
    write(table, tmp_path)
    read = read_table(detection(tmp_path), "train")
    assert [read.read(row) for row in (3, 0, 8, 1)] == [table.read(row) for row in (3, 0, 8, 1)]


def test_few_shards_are_open_at_a_time(table, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "OPEN_SHARDS", 2)
    write(table, tmp_path)
    read = read_table(detection(tmp_path), "train")
    before = len(os.listdir("/proc/self/fd"))
    for row in (0, 2, 4, 6, 8, 0, 1):
        assert read.read(row) == table.read(row)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del read
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_subset_of_a_table_keeps_its_images(table, labelled, tmp_path):
    write(table, tmp_path)
    write(labelled, tmp_path / "classes")
    rows = np.array([8, 3, 3, 0])
    some = read_table(detection(tmp_path), "train").subset(rows)
    assert some.shards.tolist() == [4, 1, 1, 0]
    assert [some.read(row) for row in range(4)] == [table.read(row) for row in rows]
    assert_equal(some, table.subset(rows))
    few = read_table(classification(tmp_path / "classes"), "train").subset(np.array([5, 0]))
    assert (few.labels.tolist(), few.read(0), few.shards.tolist()) == ([2, 0], labelled.read(5), [2, 0])


def test_shards_of_shards_are_the_same(table, tmp_path):
    write(table, tmp_path / "one")
    write(read_table(detection(tmp_path / "one"), "train"), tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_labelled_images_come_back(labelled, tmp_path):
    write(labelled, tmp_path)
    read = read_table(classification(tmp_path), "train")
    assert_equal(read, labelled)
    assert [read.read(row) for row in range(len(read))] == [labelled.read(row) for row in range(len(labelled))]


def test_labels_follow_the_classes_that_are_given(table, labelled, tmp_path):
    write(table, tmp_path, "val")
    wanted = LabelMap(("bird", "dog", "cat"), (1, 2, 3))
    read = read_table(detection(tmp_path, val={}), "val", wanted)
    assert read.label_map == wanted.in_ids_of(table.label_map)
    assert [wanted.names[label] for label in read.labels] == [table.label_map.names[label] for label in table.labels]
    write(labelled, tmp_path / "classes", "val")
    wanted = LabelMap(("cow", "ant", "dog", "bee"), (0, 1, 2, 3))
    assert read_table(classification(tmp_path / "classes", val={}), "val", wanted).labels.tolist() == [1, 1, 3, 3, 0, 0]


# From an address


@pytest.fixture
def address(table, tmp_path):
    """The shards in memory, which fsspec reads like a store in a network."""
    fsspec = pytest.importorskip("fsspec")
    write(table, tmp_path / "shards")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "shards"), "/coco", recursive=True)
    yield "memory://coco"
    memory.rm("/coco", recursive=True)


def test_shards_are_read_from_an_address(table, address):
    read = read_table(detection(None, root=None, url=address), "train")
    assert_equal(read, table)
    assert [read.read(row) for row in range(len(read))] == [table.read(row) for row in range(len(table))]
    assert pickle.loads(pickle.dumps(read)).read(2) == table.read(2)


def test_loader_processes_read_from_an_address(table, address):
    read = read_table(detection(None, root=None, url=address), "train")
    batches = [
        list(evaluation_batches(DetectionDataset(source, (64, 64), (0, 0, 0), True, "pad", None, 0), 4, workers, False))
        for source, workers in ((table, 0), (read, 2))
    ]
    for expected, batch in zip(*batches, strict=True):
        assert torch.equal(batch.images, expected.images)
    assert read.read(0) == table.read(0)


def test_a_network_that_fails_is_asked_again(table, address, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    read = read_table(detection(None, root=None, url=address), "train")
    asked, original = [], MemoryFileSystem.cat_file

    def failing(self, *arguments, **keywords):
        asked.append(arguments)
        if len(asked) % 4:
            raise TimeoutError("too late")
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(shards, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)
    assert read.read(0) == table.read(0)
    assert len(asked) == 4
    monkeypatch.setattr(shards, "PAUSES", (0.0, 0.0))
    with pytest.raises(DataError, match=r"train-000000\.tar: cannot be read, in 3 attempts: TimeoutError: too late"):
        read.read(0)


def test_files_missing_at_an_address_are_reported(address):
    with pytest.raises(DataError, match=r"memory://coco/val\.index\.npz: no such file"):
        read_table(detection(None, root=None, url=address, val={}), "val")
    import fsspec

    fsspec.filesystem("memory").rm("/coco/train-000003.tar")
    with pytest.raises(DataError, match=r"memory://coco: no such file \(.*train-000003\.tar"):
        read_table(detection(None, root=None, url=address), "train")


def test_an_address_without_its_package_is_reported(monkeypatch):
    import fsspec.core

    def missing(url, **_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(DataError, match="s3://bucket/coco: a package is missing to read from there: Install s3fs"):
        read_table(detection(None, root=None, url="s3://bucket/coco/"), "train")


def test_an_address_of_an_unknown_kind_is_reported():
    with pytest.raises(DataError, match="nowhere://coco: not an address that can be read: Protocol not known"):
        read_table(detection(None, root=None, url="nowhere://coco"), "train")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"root": "s3://bucket/coco"}, "data.root is 's3:/bucket/coco'; expected a folder"),
        ({"format": "shards", "url": "/data/coco"}, "data.url is '/data/coco'; expected an address"),
        ({"format": "shards", "url": "s3://a", "root": "b"}, "data.root and data.url both say"),
        ({"format": "coco", "url": "s3://a"}, "data.url is for shards alone, but data.format is 'coco'"),
        ({"format": "shards", "val": {"images": "photos"}}, "data.val.images and data.val.annotations are not for"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(data, message):
    with pytest.raises(ConfigError) as refused:
        make_config({"data": data})
    assert message in str(refused.value)


# What is wrong


def test_a_missing_index_is_reported_with_those_that_exist(table, tmp_path):
    with pytest.raises(DataError, match=r"no data set is given: set data\.root=FOLDER"):
        read_table(detection(None, root=None), "train")
    with pytest.raises(DataError, match="not a data set of the format shards; the folder is empty"):
        read_table(detection(tmp_path), "train")
    write(table, tmp_path, "train2017")
    with pytest.raises(DataError, match=r"no split 'test'; the shards data set has train2017; set data\.train\.split"):
        read_table(detection(tmp_path, train={"split": "test"}), "train")
    assert len(read_table(detection(tmp_path), "train")) == NUM_IMAGES


def test_a_damaged_index_is_reported(table, tmp_path):
    write(table, tmp_path)
    path = tmp_path / "train.index.npz"
    whole, array = path.read_bytes(), io.BytesIO()
    np.save(array, np.zeros(3))
    damaged = whole[: len(whole) // 2] + bytes(200) + whole[len(whole) // 2 + 200 :]
    for content in (b"", b"no archive", whole[:-20], damaged, array.getvalue()):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a whole index of shards; copy it again"):
            read_table(detection(tmp_path), "train")


@pytest.mark.parametrize("area", [np.nan, np.inf, -5.0])
def test_areas_that_are_none_in_an_index_are_refused(table, tmp_path, area):
    write(table, tmp_path)
    rewrite_index(tmp_path, areas=np.full(len(table.boxes), area))
    with pytest.raises(DataError, match="the index is damaged: the column 'areas' has numbers that are no areas"):
        read_table(detection(tmp_path), "train")


def test_two_images_of_one_id_in_an_index_are_refused(table, tmp_path):
    write(table, tmp_path)
    rewrite_index(tmp_path, image_ids=np.zeros(len(table), np.int64))
    with pytest.raises(DataError, match="the index is damaged: two images have the same id"):
        read_table(detection(tmp_path), "train")


def test_a_task_that_is_none_and_shards_of_too_long_names_are_refused(table, tmp_path):
    write(table, tmp_path)
    rewrite_index(tmp_path, task="\ud800")
    with pytest.raises(DataError, match=r"the index is damaged: its task is '\\ud800'"):
        read_table(detection(tmp_path), "train")
    rewrite_index(tmp_path, task="detection", shard_names=np.array(["x" * 5000]), shards=np.zeros(len(table), np.int64))
    with pytest.raises(DataError, match=r"write the shards again|shards do not exist"):
        read_table(detection(tmp_path), "train")


def test_an_index_of_another_version_is_reported(table, tmp_path):
    write(table, tmp_path)
    rewrite_index(tmp_path, version=2)
    with pytest.raises(DataError, match="the index is of version 2, expected 1"):
        read_table(detection(tmp_path), "train")


def test_shards_of_another_task_are_reported(table, labelled, tmp_path):
    write(table, tmp_path / "boxes")
    write(labelled, tmp_path / "classes")
    with pytest.raises(DataError, match="hold images with a class each, expected images with boxes"):
        read_table(detection(tmp_path / "classes"), "train")
    with pytest.raises(DataError, match=r"hold images with boxes, expected .* choose a recipe of task: detection"):
        read_table(classification(tmp_path / "boxes"), "train")


def test_missing_shards_are_reported(table, tmp_path):
    write(table, tmp_path)
    (tmp_path / "train-000001.tar").unlink()
    (tmp_path / "train-000004.tar").unlink()
    with pytest.raises(DataError, match=r"2 of 5 shards do not exist: train-000001\.tar, train-000004\.tar; copy"):
        read_table(detection(tmp_path), "train")


def test_a_shard_of_another_size_is_reported(table, tmp_path):
    path = write(table, tmp_path)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-512])
    with pytest.raises(
        DataError, match=rf"train-000001\.tar: the shard has {len(whole) - 512} bytes, .* it is cut off"
    ):
        read_table(detection(tmp_path), "train")
    path.write_bytes(whole + b"more")
    with pytest.raises(DataError, match="it is of another data set or was changed"):
        read_table(detection(tmp_path), "train")


def test_a_shard_that_changes_during_the_run_is_reported(table, tmp_path):
    path = write(table, tmp_path)[0]
    read = read_table(detection(tmp_path), "train")
    os.truncate(path, read.store.starts[1] + 10)
    with pytest.raises(DataError, match=r"ends before byte \d+, where 000000001\.jpg ends by the index"):
        read.read(1)
    path.unlink()
    elsewhere = pickle.loads(pickle.dumps(read))  # in another process, which has not opened the shard yet
    with pytest.raises(DataError, match=r"train-000000\.tar: no such shard; check the path"):
        elsewhere.read(1)


def test_other_images_of_the_same_size_are_reported(table, tmp_path):
    path = write(table, tmp_path)[0]
    read = read_table(detection(tmp_path), "train")
    content = bytearray(path.read_bytes())
    start, length = int(read.store.starts[0]), int(read.store.lengths[0])
    content[start + length - 100] ^= 1
    path.write_bytes(content)
    again = read_table(detection(tmp_path), "train")
    with pytest.raises(DataError, match=r"000000000\.jpg is not the image that the index was written for"):
        again.read(0)
    assert again.read(1) == table.read(1)


def test_classes_that_the_model_lacks_are_reported(table, labelled, tmp_path):
    write(table, tmp_path)
    write(labelled, tmp_path / "classes")
    with pytest.raises(
        DataError, match="the class 'dog' is not among the 2 classes of the training split or of the model"
    ):
        read_table(detection(tmp_path), "train", LabelMap(("cat", "bird"), (1, 2)))
    with pytest.raises(DataError, match="the class 'cow' is not among the 2 classes of the training split"):
        read_table(classification(tmp_path / "classes"), "train", LabelMap(("ant", "bee"), (0, 1)))


# Fingerprints


def test_files_and_shards_of_the_same_data_have_the_same_fingerprint(table, labelled, tmp_path):
    write(table, tmp_path)
    write(labelled, tmp_path / "classes")
    assert read_table(detection(tmp_path), "train").fingerprint() == table.fingerprint()
    assert read_table(classification(tmp_path / "classes"), "train").fingerprint() == labelled.fingerprint()


def test_fingerprints_of_different_orders_differ(table, labelled):
    order = np.arange(len(table))[::-1]
    assert len(table.fingerprint()) == 64
    assert table.subset(order).fingerprint() != table.fingerprint()
    assert table.subset(order).subset(order).fingerprint() == table.fingerprint()
    assert labelled.subset(np.array([1, 0])).fingerprint() != labelled.subset(np.array([0, 1])).fingerprint()


@pytest.mark.parametrize("column", ["file_names", "image_ids", "sizes", "boxes", "labels", "crowd", "areas"])
def test_fingerprints_of_different_values_differ(table, column):
    changed = columns(table)[column].copy()
    changed[0] = "z.jpg" if column == "file_names" else changed[0] + 1 if column != "crowd" else ~changed[0]
    assert replace(table, **{column: changed}).fingerprint() != table.fingerprint()


def test_fingerprints_of_different_classes_differ(table):
    for label_map in (LabelMap(("cat", "cow"), (3, 9)), LabelMap(("cat", "dog"), (3, 10))):
        assert replace(table, label_map=label_map).fingerprint() != table.fingerprint()


def test_a_fingerprint_does_not_depend_on_the_folder(table):
    moved = replace(table, image_folder=Path("/elsewhere"), source=Path("other.json"))
    assert moved.fingerprint() == table.fingerprint()
    names = [np.array([f"{folder}/{row}.jpg" for row in range(len(table))]) for folder in ("/here", "/there/too")]
    one, other = (replace(table, file_names=column).fingerprint() for column in names)
    assert one == other


def with_columns(folder, **changes):
    """Writes the index again with other columns; None leaves one out."""
    path = folder / "train.index.npz"
    columns = {**np.load(path), **changes}
    np.savez_compressed(path, **{name: column for name, column in columns.items() if column is not None})


ODD_COLUMNS = {
    "a column missing": ({"boxes": None}, "the column 'boxes' is missing"),
    "a version of two values": ({"version": np.array([1, 1])}, "not a whole index"),
    "a task that is a number": ({"task": np.array(5)}, "not a whole index"),
    "boxes of another shape": (lambda raw: {"boxes": raw["boxes"][:, :3]}, "'boxes' has .* rows, which do not fit"),
    "boxes of texts": (lambda raw: {"boxes": raw["boxes"].astype(str)}, "the column 'boxes' is <U"),
    "a shard size missing": (lambda raw: {"shard_sizes": raw["shard_sizes"][:-1]}, "'shard_sizes' has"),
    "starts as a column": (lambda raw: {"starts": raw["starts"][:, None]}, "the column 'starts' is int64"),
    "negative starts": (lambda raw: {"starts": raw["starts"] - 10**9}, "the column 'starts' has"),
    "lengths of 1e12": (lambda raw: {"lengths": np.full_like(raw["lengths"], 10**12)}, "beyond the end of its shard"),
    "lengths of 2**63": (lambda raw: {"lengths": np.full(len(raw["lengths"]), 2**63, np.uint64)}, "column 'lengths'"),
    "offsets of 0": (lambda raw: {"offsets": raw["offsets"] * 0}, "'offsets' does not divide"),
    "offsets that overlap": (lambda raw: {"offsets": raw["offsets"][[0, -1, *range(2, len(raw["offsets"]))]]}, "offs"),
    "names that are lists": (lambda raw: {"class_names": raw["class_names"][:, None]}, "the column 'class_names' is"),
    "labels without a class": (lambda raw: {"labels": raw["labels"] + 100}, "the column 'labels' has"),
    "a shard that does not exist": (lambda raw: {"shards": raw["shards"] + 100}, "the column 'shards' has"),
    "a shard elsewhere": (
        lambda raw: {"shard_names": np.array(["../../etc/passwd"] * len(raw["shard_names"]))},
        "not beside the index",
    ),
    "half a character": (
        lambda raw: {"class_names": np.array([f"\ud800{n}" for n in raw["class_names"]])},
        "half of a",
    ),
}


@pytest.mark.parametrize("kind", ODD_COLUMNS)
def test_an_index_with_odd_columns_is_refused(table, tmp_path, kind):
    write(table, tmp_path)
    changes, reason = ODD_COLUMNS[kind]
    with_columns(tmp_path, **(changes(np.load(tmp_path / "train.index.npz")) if callable(changes) else changes))
    with pytest.raises(DataError, match=reason):
        read_shards(Annotations, ShardFolder(tmp_path), "train")


def test_names_of_images_in_an_index_lead_nowhere(table, tmp_path):
    write(table, tmp_path)
    names = np.load(tmp_path / "train.index.npz")["file_names"].astype("U40")
    names[:2] = "../../x/a.jpg", "/etc/passwd"
    with_columns(tmp_path, file_names=names)
    assert read_shards(Annotations, ShardFolder(tmp_path), "train").file_names[:2].tolist() == ["x/a.jpg", "etc/passwd"]


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1:1/x", "zip://x", "tar://x::file:///etc/passwd", "reference://x", "dir:///x", "generic://x"]
)
def test_addresses_of_odd_kinds_are_refused(url, monkeypatch):
    monkeypatch.setattr("effdet.data.shard_store.PAUSES", ())
    with pytest.raises(DataError, match=r"cannot be connected to|not an address|cannot be read|no such file|package"):
        read_shards(Annotations, ShardAddress(url), "train")
