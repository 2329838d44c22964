"""Other systems' recorded outputs, compared element by element: the whole chain from weights to detections."""

import numpy as np
import pytest
import torch

from effdet.boxes import encode_boxes
from effdet.losses import DetectionLoss, match_anchors
from effdet.models import build_efficientdet, build_efficientnet
from effdet.models.anchors import anchor_boxes
from effdet.postprocess import postprocess
from effdet.structures import Outputs, Target
from effdet.weights.names import from_effdet

TOLERANCE = 1e-4  # of an array's largest value


def detector(reference, name, size, **options):
    """Our model with the weights of effdet's model `name`; its mean and std leave images as they are."""
    ours = "efficientdet_" + name.split("_")[-1]
    model = build_efficientdet(ours, 90, image_size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **options)
    state = from_effdet(reference.state(f"effdet/{name}"))
    own = model.state_dict()
    biases = [key for key in own.keys() - state.keys() if key.endswith("bias")]
    assert name.startswith("efficientdet") or not biases  # those before a norm are not in every system
    state |= {key: torch.zeros_like(own[key]) for key in biases}
    model.load_state_dict(state)
    return model.eval()


def assert_raw_outputs_match(reference, name, size, **options):
    model = detector(reference, name, size, **options)
    with torch.inference_mode():
        outputs = model(reference.image(*size))
    start, arrays, prefix = 0, reference.arrays, f"effdet/{name}/{size[0]}x{size[1]}"
    for level in range(model.max_level - 2):
        _, channels, height, width = arrays[f"{prefix}/class{level}/shape"]
        end = start + 9 * height * width
        assert channels == 9 * 90
        boxes = outputs.box_deltas[0, start:end, [1, 0, 3, 2]]  # theirs are (dy, dx, dh, dw)
        for kind, rows in (("class", outputs.class_logits[0, start:end]), ("box", boxes)):
            given = rows.reshape(height, width, -1).permute(2, 0, 1).flatten().numpy()
            index, expected = arrays[f"{prefix}/{kind}{level}/index"], arrays[f"{prefix}/{kind}{level}/value"]
            assert np.abs(given[index] - expected).max() <= TOLERANCE * np.abs(expected).max(), (kind, level)
        start = end
    assert start == outputs.class_logits.shape[1] == len(outputs.anchors)


def assert_logits_match(reference, system, name, **options):
    """A classifier at 96 x 96; torchvision's layers have other names but the same order."""
    model = build_efficientnet("efficientnet_" + name.split("_")[-1], 1000, **options).eval()
    state = reference.state(f"{system}/{name}")
    if system == "torchvision":
        state = dict(zip(model.state_dict(), state.values(), strict=True))
    model.load_state_dict(state)
    with torch.inference_mode():
        given = model(reference.image(96, 96)).numpy()
    expected = reference.arrays[f"{system}/{name}/96/logits"]
    assert np.abs(given - expected).max() <= TOLERANCE * np.abs(expected).max()


# The small set


@pytest.mark.parametrize("name", ["tf_efficientdet_d0", "tf_efficientdet_lite0"])
def test_raw_outputs_are_those_of_effdet(reference, name):
    assert_raw_outputs_match(reference, name, (256, 256))


def test_raw_outputs_with_symmetric_padding_are_those_of_effdet(reference):
    assert_raw_outputs_match(reference, "efficientdet_d0", (256, 256), padding="symmetric", backbone_norm_eps=1e-5)


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "tf_efficientnet_lite0"])
def test_class_logits_are_those_of_timm(reference, name):
    assert_logits_match(reference, "timm", name)


def test_class_logits_with_symmetric_padding_are_those_of_torchvision(reference):
    assert_logits_match(reference, "torchvision", "efficientnet_b0", padding="symmetric", norm_eps=1e-5)


def test_low_precision_comes_close_to_float32(reference):
    model = detector(reference, "tf_efficientdet_lite0", (256, 256))
    with torch.inference_mode():
        exact = model(reference.image(256, 256))
        with torch.autocast("cpu", torch.bfloat16):
            low = model(reference.image(256, 256))
    for given, expected in ((low.class_logits, exact.class_logits), (low.box_deltas, exact.box_deltas)):
        assert (given.float() - expected).std() < 0.06 * expected.std()


@pytest.mark.parametrize(
    ("name", "size", "scale", "max_level"),
    [
        ("tf_efficientdet_d0", (512, 512), 4, 7),
        ("tf_efficientdet_d0", (384, 640), 4, 7),
        ("tf_efficientdet_d7x", (256, 256), 4, 8),
        ("tf_efficientdet_lite0", (320, 320), 3, 7),
    ],
)
def test_anchors_are_those_of_effdet(reference, name, size, scale, max_level):
    anchors, key = anchor_boxes(size, 3, max_level, scale), f"anchors/{name}/{size[0]}x{size[1]}"
    assert len(anchors) == reference.arrays[f"{key}/count"]
    given = anchors[reference.arrays[f"{key}/index"]].numpy()
    np.testing.assert_allclose(given, reference.arrays[f"{key}/yxyx"][:, [1, 0, 3, 2]], atol=1e-4)


def recorded_targets(reference):
    return [
        Target(
            torch.from_numpy(reference.arrays[f"targets/image{image}/boxes_xyxy"]).float(),
            torch.from_numpy(reference.arrays[f"targets/image{image}/labels"]).long(),
            image,
            (256, 256),
            (1.0, 1.0),
        )
        for image in range(2)
    ]


def recorded_outputs():
    """The random head outputs of two images, 7 classes, from which losses and detections were recorded."""
    rng = np.random.Generator(np.random.PCG64(3))
    classes, boxes = [], []
    for level in range(5):
        side = 256 >> (3 + level)
        for rows, channels, spread, shift in ((classes, 63, 1.5, -3), (boxes, 36, 0.3, 0)):
            values = (rng.standard_normal((2, channels, side, side)) * spread + shift).astype(np.float32)
            rows.append(torch.from_numpy(values).permute(0, 2, 3, 1).reshape(2, -1, channels // 9))
    return Outputs(torch.cat(classes, 1), torch.cat(boxes, 1)[..., [1, 0, 3, 2]], anchor_boxes((256, 256)))


def test_targets_are_those_of_effdet(reference):
    anchors = anchor_boxes((256, 256))
    for image, target in enumerate(recorded_targets(reference)):
        recorded = {key: reference.arrays[f"targets/image{image}/positive_{key}"] for key in ("anchor_index", "label")}
        deltas = reference.arrays[f"targets/image{image}/positive_delta_ty_tx_th_tw"][:, [1, 0, 3, 2]]
        positive, box = match_anchors(anchors, target.boxes)
        np.testing.assert_array_equal(positive.numpy(), recorded["anchor_index"])
        np.testing.assert_array_equal(target.labels[box].numpy(), recorded["label"])
        np.testing.assert_allclose(encode_boxes(target.boxes[box], anchors[positive]).numpy(), deltas, atol=1e-5)


@pytest.mark.parametrize(("name", "smoothing"), [("focal", 0.0), ("focal_smoothed", 0.1), ("legacy_focal", 0.0)])
def test_losses_are_those_of_effdet(reference, name, smoothing):
    criterion, outputs = DetectionLoss(0.25, 1.5, smoothing, 0.1, 50.0), recorded_outputs()
    assignment = criterion.assign(outputs.anchors, recorded_targets(reference))
    given = [value.item() for value in criterion(outputs, assignment, len(assignment))]
    assert given == pytest.approx(reference.arrays[f"loss/{name}/total_class_box"].tolist(), rel=TOLERANCE)


@pytest.mark.parametrize(("name", "suppression"), [("hard", "class"), ("soft", "soft")])
def test_detections_are_those_of_effdet(reference, name, suppression):
    recorded = reference.arrays[f"detections/{name}_nms/xyxy_score_label1"]
    for given, expected in zip(postprocess(recorded_outputs(), suppression=suppression), recorded, strict=True):
        rows = torch.cat([given.boxes, given.scores[:, None], given.labels[:, None] + 1], 1)
        assert rows.shape == expected.shape
        np.testing.assert_allclose(rows.numpy(), expected, atol=TOLERANCE * 256, rtol=0)
        np.testing.assert_allclose(given.scores.numpy(), expected[:, 4], rtol=TOLERANCE)


# Every model


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    "name", ["d1", "d2", "lite1", "lite2", *slow("d3", "d4", "d5", "d6", "d7", "d7x", "lite3", "lite3x", "lite4")]
)
def test_raw_outputs_of_every_detector_are_those_of_effdet(full_reference, name):
    assert_raw_outputs_match(full_reference, f"tf_efficientdet_{name}", (256, 256))


@pytest.mark.parametrize(("name", "size"), [("d0", (256, 384)), ("lite0", (320, 320))])
def test_raw_outputs_of_other_sizes_are_those_of_effdet(full_reference, name, size):
    assert_raw_outputs_match(full_reference, f"tf_efficientdet_{name}", size)


@pytest.mark.parametrize(
    "name", ["b1", "b2", "lite1", "lite2", *slow("b3", "lite3", "b4", "b5", "b6", "b7", "b8", "lite4")]
)
def test_class_logits_of_every_classifier_are_those_of_timm(full_reference, name):
    assert_logits_match(full_reference, "timm", f"tf_efficientnet_{name}")


@pytest.mark.parametrize("name", ["b1", *slow("b2", "b3", "b4", "b5", "b6", "b7")])
def test_class_logits_of_every_classifier_are_those_of_torchvision(full_reference, name):
    eps = 1e-3 if name in ("b5", "b6", "b7") else 1e-5
    assert_logits_match(full_reference, "torchvision", f"efficientnet_{name}", padding="symmetric", norm_eps=eps)
