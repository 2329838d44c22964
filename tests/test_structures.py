from dataclasses import FrozenInstanceError

import pytest
import torch

from effdet.structures import Batch, Classification, Detections, LabelBatch, Target


def batch(images):
    targets = tuple(Target(torch.zeros(0, 4), torch.zeros(0).long(), row, (8, 8), (1.0, 1.0)) for row in range(images))
    pixels = torch.arange(images, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    return Batch(pixels, targets)


@pytest.mark.parametrize("images", [1, 2, 5, 8])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_the_parts_of_a_batch_are_the_batch_in_order_and_none_is_empty(images, parts):
    pieces = batch(images).split(parts)
    assert len(pieces) == min(parts, images)
    sizes = [len(piece.images) for piece in pieces]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert torch.cat([piece.images for piece in pieces]).equal(batch(images).images)
    for piece in pieces:
        assert [target.index for target in piece.targets] == piece.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("images", "parts"), [(1, 3), (5, 2), (8, 3), (4, 4)])
def test_the_parts_of_a_labelled_batch_are_the_batch_in_order(images, parts):
    labels = torch.arange(images) % 3
    whole = LabelBatch(torch.rand(images, 3, 2, 2), labels, list(range(10, 10 + images)))
    pieces = whole.split(parts)
    assert len(pieces) == min(parts, images)
    assert torch.cat([piece.images for piece in pieces]).equal(whole.images)
    assert torch.cat([piece.labels for piece in pieces]).equal(labels)
    assert [index for piece in pieces for index in piece.indices] == whole.indices
    assert all(len(piece.images) == len(piece.labels) == len(piece.indices) > 0 for piece in pieces)


def test_moving_a_labelled_batch_keeps_its_rows():
    moved = LabelBatch(torch.zeros(2, 3, 4, 4), torch.tensor([1, 0]), [7, 3]).to(torch.device("meta"))
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.indices == [7, 3]


def test_a_classification_knows_its_names():
    told = Classification(torch.tensor([0.7, 0.2]), torch.tensor([1, 0]), ("cat", "dog", "cow"))
    assert len(told) == 2
    assert told.names == told.cpu().names == ["dog", "cat"]


def test_moving_a_batch_keeps_what_is_no_tensor():
    moved = batch(2).to(torch.device("meta"))
    assert (
        moved.images.device.type == moved.targets[1].boxes.device.type == moved.targets[1].labels.device.type == "meta"
    )
    assert (moved.targets[1].index, moved.targets[1].size, moved.targets[1].scale) == (1, (8, 8), (1.0, 1.0))


def test_detections_know_their_number_and_their_names():
    found = Detections(torch.zeros(3, 4), torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1]), ("cat", "dog"))
    assert len(found) == 3
    assert found.names == ["dog", "cat", "dog"]
    assert found.cpu().class_names == ("cat", "dog")


def test_no_detections_have_no_names():
    found = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), ("cat",))
    assert len(found) == 0
    assert found.names == []


def test_structures_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        batch(1).targets[0].index = 7
