import base64
import functools
import pickle
import re
import sys
from dataclasses import FrozenInstanceError

import cv2
import numpy as np
import pytest
import torch

from effdet.data.images import read_image
from effdet.errors import DataError
from effdet.report.boxes import color_of, draw_lines
from effdet.structures import Batch, Classification, Detections, LabelBatch, Target


def batch(images):
    targets = tuple(Target(torch.zeros(0, 4), torch.zeros(0).long(), row, (8, 8), (1.0, 1.0)) for row in range(images))
    pixels = torch.arange(images, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    return Batch(pixels, targets)


@pytest.mark.parametrize("images", [1, 2, 5, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_micro_batches_are_the_batch_in_order_and_none_is_empty(images, count):
    micro_batches = batch(images).split(count)
    assert len(micro_batches) == min(count, images)
    sizes = [len(micro_batch.images) for micro_batch in micro_batches]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert torch.cat([micro_batch.images for micro_batch in micro_batches]).equal(batch(images).images)
    for micro_batch in micro_batches:
        assert [target.index for target in micro_batch.targets] == micro_batch.images[:, 0, 0, 0].tolist()


def test_moving_a_labelled_batch_keeps_its_rows():
    moved = LabelBatch(torch.zeros(2, 3, 4, 4), torch.tensor([1, 0]), [7, 3]).to(torch.device("meta"))
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.indices == [7, 3]


def test_moving_a_batch_keeps_its_plain_values():
    moved = batch(2).to(torch.device("meta"))
    assert (
        moved.images.device.type == moved.targets[1].boxes.device.type == moved.targets[1].labels.device.type == "meta"
    )
    assert (moved.targets[1].index, moved.targets[1].size, moved.targets[1].scale) == (1, (8, 8), (1.0, 1.0))


def test_structures_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        batch(1).targets[0].index = 7


# Detections

NAMES = ("cat", "dog", "cow")
BOXES = [[10.0, 20, 50, 60], [5, 5, 30, 40], [0, 0, 90, 70], [60, 10, 80, 30]]


def detections(number=4, class_names=NAMES, **more):
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 0, 1, 2])
    return Detections(torch.tensor(BOXES)[:number], scores[:number], labels[:number], class_names, **more)


def rows(result):
    return [(*box, label) for box, label in zip(result.boxes.tolist(), result.labels.tolist(), strict=True)]


def test_detections_have_a_length_and_names():
    assert len(detections()) == 4
    assert detections().names == detections().cpu().names == ["dog", "cat", "dog", "cow"]
    assert len(detections(0)) == 0
    assert detections(0).names == []


def test_labels_without_names_are_numbers():
    assert detections(class_names=()).names == ["1", "0", "1", "2"]
    assert Classification(torch.tensor([0.9]), torch.tensor([3])).names == ["3"]


def test_iteration_gives_one_object_at_a_time_in_plain_numbers():
    box, score, label, name = next(iter(detections()))
    assert (box, label, name) == ((10.0, 20.0, 50.0, 60.0), 1, "dog")
    assert score == pytest.approx(0.9)
    assert [row.name for row in detections()] == detections().names
    assert list(detections(0)) == []


@pytest.mark.parametrize("index", [0, 3, -1, -4, np.int64(2)])
def test_an_index_gives_one_object(index):
    assert detections()[index] == list(detections())[index]


@pytest.mark.parametrize("index", [4, -5])
def test_an_index_out_of_range_is_refused(index):
    with pytest.raises(IndexError, match=f"detection {index} of 4"):
        detections()[index]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        ([0, 3], [0, 3]),
        ([], []),
        (np.array([2, 0]), [2, 0]),
        (torch.tensor([-1]), [3]),
        ([True, False, False, True], [0, 3]),
        (np.array([False] * 4), []),
        (torch.tensor([0.9, 0.8, 0.7, 0.6]) > 0.75, [0, 1]),
        ("dog", [0, 2]),
        ("cow", [3]),
    ],
)
def test_slices_masks_index_arrays_and_classes_give_detections(key, expected):
    whole, chosen = detections(), detections()[key]
    assert isinstance(chosen, Detections)
    assert rows(chosen) == [rows(whole)[row] for row in expected]
    assert chosen.scores.tolist() == whole.scores[expected].tolist()
    assert chosen.class_names == NAMES


def test_a_class_without_detections_gives_none_and_an_unknown_one_is_refused():
    assert len(detections(3)["cow"]) == 0
    assert len(detections(0)["cow"]) == 0
    with pytest.raises(KeyError, match="no class 'horse'; the classes are cat, dog, cow"):
        detections()["horse"]
    assert len(detections(class_names=())["1"]) == 2


@pytest.mark.parametrize("mask", [[True], [True] * 5, torch.ones(4, 4, dtype=torch.bool)])
def test_a_mask_of_another_shape_is_refused(mask):
    with pytest.raises(IndexError, match="4 detections cannot be indexed with shape"):
        detections()[mask]


def test_the_repr_is_short():
    assert repr(detections(2)) == "Detections(2 objects: dog 0.90, cat 0.80)"
    assert repr(detections(1)) == "Detections(1 object: dog 0.90)"
    assert repr(detections(0)) == "Detections(0 objects)"
    many = Detections(torch.zeros(99, 4), torch.full((99,), 0.5), torch.zeros(99).long())
    assert repr(many) == "Detections(99 objects: 0 0.50, 0 0.50, 0 0.50, 0 0.50, 0 0.50, ...)"
    classes = Classification(torch.tensor([0.7, 0.2]), torch.tensor([1, 0]), NAMES)
    assert repr(classes) == "Classification(2 classes: dog 0.70, cat 0.20)"


# Pictures

IMAGE = np.full((80, 100, 3), 90, np.uint8)


def test_the_best_detection_is_drawn_on_top():
    box = torch.tensor([[20.0, 30, 80, 70]] * 2)
    for scores in ([0.9, 0.2], [0.2, 0.9]):
        drawn = Detections(box, torch.tensor(scores), torch.tensor([0, 1])).draw(IMAGE)
        assert tuple(drawn[60, 20]) == color_of(scores.index(0.9))
    assert (IMAGE == 90).all()


def test_no_detections_give_an_equal_picture():
    assert (detections(0).draw(IMAGE) == IMAGE).all()


def test_classes_are_drawn_with_their_probabilities():
    drawn = Classification(torch.tensor([0.7, 0.2]), torch.tensor([1, 0]), NAMES).draw(IMAGE)
    assert (drawn == draw_lines(IMAGE, ["0.70 dog", "0.20 cat"])).all()


@pytest.mark.parametrize("image", [np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8)])
def test_an_image_of_another_type_is_refused(image):
    with pytest.raises(DataError, match="expected uint8 RGB"):
        detections().draw(image)


def test_detections_draw_on_the_image_they_know():
    assert (detections(load_image=lambda: IMAGE).draw() == detections().draw(IMAGE)).all()
    assert (detections(load_image=lambda: IMAGE)["dog"].draw() == detections()["dog"].draw(IMAGE)).all()
    with pytest.raises(DataError, match="no image to draw on"):
        detections().draw()


def test_pictures_are_saved_in_the_format_of_the_suffix(tmp_path):
    for name in ("a.png", "new/a.JPG"):
        detections().save(tmp_path / name, IMAGE)
        saved = read_image(tmp_path / name).astype(int)
        assert np.abs(saved - detections().draw(IMAGE)).mean() < (1e-9 if name == "a.png" else 10)
    Classification(torch.tensor([0.7]), torch.tensor([1]), load_image=lambda: IMAGE).save(str(tmp_path / "c.png"))
    assert (read_image(tmp_path / "c.png") != IMAGE).any()


def test_pictures_that_cannot_be_saved_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: the picture cannot be encoded as '.txt'"):
        detections().save(tmp_path / "a.txt", IMAGE)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"a\.png: cannot be written"):
        detections().save(tmp_path / "file/a.png", IMAGE)


# Notebooks and tables


def test_notebooks_show_the_picture_and_a_table():
    shown = detections(class_names=("<cat>", "dog", "cow"), load_image=lambda: IMAGE)._repr_html_()
    assert shown.count("<tr>") == 5
    assert "&lt;cat&gt;" in shown
    picture = base64.b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", shown)[1])
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape == IMAGE.shape


def test_notebooks_show_the_table_alone_if_the_image_is_unknown_or_gone():
    def gone():
        raise DataError("no such image")

    for load_image in (None, gone):
        shown = detections(load_image=load_image)._repr_html_()
        assert "<img" not in shown
        assert "<td>dog</td><td>0.90</td>" in shown
    assert "<td>dog</td><td>0.700</td>" in Classification(torch.tensor([0.7]), torch.tensor([1]), NAMES)._repr_html_()


def test_long_tables_are_cut_and_large_pictures_made_smaller_in_notebooks():
    many = Detections(
        torch.zeros(99, 4), torch.ones(99), torch.zeros(99).long(), (), lambda: np.zeros((1600, 2400, 3), np.uint8)
    )
    shown = many._repr_html_()
    assert "and 79 more" in shown
    picture = base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape == (533, 800, 3)


def test_a_table_for_pandas():
    pytest.importorskip("pandas")
    table = detections().to_pandas()
    assert list(table.columns) == ["name", "label", "score", "x1", "y1", "x2", "y2"]
    assert table["name"].tolist() == detections().names
    assert table[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == BOXES
    assert len(detections(0).to_pandas()) == 0
    classes = Classification(torch.tensor([0.7]), torch.tensor([1]), NAMES).to_pandas()
    assert classes.to_dict("list") == {"name": ["dog"], "label": [1], "score": [pytest.approx(0.7)]}


def test_detections_for_supervision():
    pytest.importorskip("supervision")
    for number in (4, 0):
        given, other = detections(number), detections(number).to_supervision()
        assert other.xyxy.tolist() == given.boxes.tolist()
        assert other.confidence.tolist() == given.scores.tolist()
        assert other.class_id.tolist() == given.labels.tolist()
        assert other.data["class_name"].tolist() == given.names


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_a_package_that_is_missing_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"to_{package} needs {package}; install it with: pip install {package}"):
        getattr(detections(), f"to_{package}")()


def test_results_travel_between_processes():
    sent = pickle.loads(pickle.dumps(detections(load_image=functools.partial(np.full, (80, 100, 3), 90, np.uint8))))
    assert rows(sent) == rows(detections())
    assert (sent.draw() == detections().draw(IMAGE)).all()
