import numpy as np
import pytest
import torch

from effdet.boxes import pairwise_iou
from effdet.data.letterbox import letterbox
from effdet.diagnosis.anchors.coverage import analyze, input_scales, objects_of
from effdet.errors import DataError
from effdet.losses.matching import match_anchors
from effdet.models import ModelOptions, make_spec

from .anchor_tables import draw_table, make_table


def spec_of(**options):
    return make_spec(ModelOptions("efficientdet_lite0", **options))


@pytest.mark.parametrize("mode", ["pad", "stretch"])
def test_boxes_are_scaled_as_the_letterbox_scales_the_image(mode):
    sizes = np.array([(480, 640), (333, 500), (1, 700), (97, 13), (480, 640)], np.int32)
    expected = [
        letterbox(np.zeros((*size, 3), np.uint8), (192, 250), (0, 0, 0), True, mode)[1] for size in sizes.tolist()
    ]
    np.testing.assert_array_equal(input_scales(sizes, (192, 250), mode), expected)


def test_numbers_are_those_of_the_anchors_and_the_matcher_of_the_network():
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (300, 2)))
    table = draw_table(sides, rng.integers(0, 2, 300))
    spec = spec_of(image_size=(192, 256))
    report = analyze(objects_of(table), spec)
    anchors = spec.build(3).anchors
    boxes = torch.from_numpy(table.boxes) * 0.4
    best = pairwise_iou(boxes, anchors).max(1).values
    positive, box = match_anchors(anchors, boxes, torch.from_numpy(table.image_of_label()))
    positives = torch.bincount(box, minlength=len(boxes))
    assert report["objects"] == 300
    assert report["anchors"] == len(anchors)
    assert report["recall_ceiling"] == pytest.approx((best >= 0.5).double().mean().item())
    assert report["claimed_only"] == pytest.approx(((best < 0.5) & (positives > 0)).double().mean().item())
    assert report["without"] == pytest.approx((positives == 0).double().mean().item())
    assert report["positives"] == pytest.approx(len(positive) / 300)
    for row in report["classes"][:2]:
        of_class = torch.from_numpy(table.labels == "abc".index(row["name"]))
        assert row["objects"] == int(of_class.sum())
        assert row["recall_ceiling"] == pytest.approx((best[of_class] >= 0.5).double().mean().item())
        assert row["positives"] == pytest.approx(positives[of_class].double().mean().item())
    assert sum(row["positives"] for row in report["levels"]) == len(positive)
    assert sum(row["anchors"] for row in report["levels"]) == len(anchors)


def test_sizes_are_those_of_coco_in_the_original_image():
    table = draw_table([(31, 31), (32, 32), (95, 95), (96, 96)], [0, 0, 1, 1], images=1)
    report = analyze(objects_of(table), spec_of(image_size=(240, 320)))
    assert [(row["name"], row["objects"]) for row in report["sizes"]] == [("small", 1), ("medium", 2), ("large", 1)]
    assert report["sizes"][0]["side_at_input"]["median"] == pytest.approx(15.5)


def test_a_class_without_objects_has_no_numbers():
    report = analyze(objects_of(draw_table([(50, 50)], [0], images=1)), spec_of())
    row = report["classes"][2]
    assert row["objects"] == 0
    assert row["recall_ceiling"] is None
    assert row["side_at_input"]["median"] is None


def test_crowds_and_images_of_unknown_size_are_counted_and_left_out():
    boxes = [[10, 10, 60, 60]] * 3
    table = make_table(boxes, [0, 1, 1], [0, 0, 1], [(100, 100), (0, 0)], crowd=[0])
    objects = objects_of(table)
    assert len(objects) == 1
    assert (objects.crowds, objects.unknown) == (1, 1)
    report = analyze(objects, spec_of())
    assert (report["objects"], report["crowds"], report["objects_of_unknown_size"]) == (1, 1, 1)


def test_a_split_without_objects_is_refused_in_a_sentence():
    with pytest.raises(DataError, match=r"train\.json: no image has objects"):
        objects_of(make_table([], [], [], [(100, 100)]))
    with pytest.raises(DataError, match="no object is left, because all are crowds"):
        objects_of(make_table([[1, 1, 9, 9]], [0], [0], [(100, 100)], crowd=[0]))
