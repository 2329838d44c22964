import math

import pytest
import torch
import torchvision

from effdet.boxes import LARGEST_GROWTH, box_area, clip_boxes, decode_boxes, encode_boxes, pairwise_iou


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 300 - 50
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 150], 1)


def slow_iou(first, second):
    across = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    down = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return across * down / (area - across * down)


def test_area_is_width_times_height_without_an_extra_pixel():
    assert box_area(torch.tensor([[10.0, 20, 13, 24], [5, 5, 5, 9]])).tolist() == [12, 0]


def test_iou_agrees_with_a_slow_loop_and_with_torchvision():
    first, second = random_boxes(30), random_boxes(40, seed=1)
    iou = pairwise_iou(first, second)
    slow = torch.tensor([[slow_iou(a, b) for b in second.tolist()] for a in first.tolist()])
    torch.testing.assert_close(iou, slow, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(iou, torchvision.ops.box_iou(first, second))
    assert (iou > 0).any()
    assert (iou == 0).any()


def test_iou_of_a_box_with_itself_is_one_and_with_a_touching_box_zero():
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [10, 10, 20, 20]])
    assert pairwise_iou(boxes, boxes).tolist() == torch.eye(3).tolist()


def test_iou_of_boxes_without_area_is_zero_and_not_nan():
    points = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 9]])
    assert pairwise_iou(points, points).tolist() == [[0, 0], [0, 0]]
    assert pairwise_iou(points, torch.tensor([[0.0, 0, 10, 10]])).tolist() == [[0], [0]]


@pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 0), (0, 0)])
def test_iou_of_no_boxes_has_no_rows_or_columns(first, second):
    assert pairwise_iou(random_boxes(first), random_boxes(second)).shape == (first, second)


def test_iou_works_on_batches():
    first, second = random_boxes(12).reshape(2, 6, 4), random_boxes(10, seed=1).reshape(2, 5, 4)
    for row in range(2):
        torch.testing.assert_close(pairwise_iou(first, second)[row], pairwise_iou(first[row], second[row]))


def test_clipped_boxes_lie_inside_the_image():
    boxes = torch.tensor([[-5.0, -6, 700, 500], [10, 20, 30, 40], [650, 490, 660, 500]])
    assert clip_boxes(boxes, (480, 640)).tolist() == [[0, 0, 640, 480], [10, 20, 30, 40], [640, 480, 640, 480]]


def test_encoding_follows_the_definition():
    anchor, box = torch.tensor([[0.0, 0, 40, 20]]), torch.tensor([[20.0, 5, 40, 45]])
    expected = [(30 - 20) / 40, (25 - 10) / 20, math.log(20 / 40), math.log(40 / 20)]
    assert encode_boxes(box, anchor)[0].tolist() == pytest.approx(expected)


def test_an_anchor_encodes_itself_as_zero_and_zero_decodes_to_the_anchor():
    anchors = random_boxes(20)
    assert encode_boxes(anchors, anchors).abs().max() == 0
    torch.testing.assert_close(decode_boxes(torch.zeros(20, 4), anchors), anchors)


def test_decoding_undoes_encoding():
    boxes, anchors = random_boxes(200), random_boxes(200, seed=1)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-3, rtol=1e-5)


def test_a_box_without_area_encodes_to_finite_deltas():
    assert encode_boxes(torch.tensor([[5.0, 5, 5, 5]]), torch.tensor([[0.0, 0, 32, 32]])).isfinite().all()


def test_huge_deltas_decode_to_finite_boxes():
    boxes = decode_boxes(torch.tensor([[0.0, 0, 1e4, 90]]), torch.tensor([[0.0, 0, 32, 32]]))
    assert boxes.isfinite().all()
    assert (boxes[0, 2] - boxes[0, 0]).item() == pytest.approx(32 * math.exp(LARGEST_GROWTH))


def test_deltas_of_low_precision_decode_to_float32():
    anchors = random_boxes(5)
    assert decode_boxes(torch.zeros(5, 4, dtype=torch.bfloat16), anchors).dtype == torch.float32
    assert decode_boxes(torch.zeros(0, 4), anchors[:0]).shape == (0, 4)
