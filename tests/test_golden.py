"""Other systems' recorded outputs, compared element by element: the whole chain from weights to detections."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet.boxes import encode_boxes
from effdet.losses import DetectionLoss
from effdet.losses.matching import match_anchors
from effdet.models import ModelOptions, make_spec
from effdet.models.anchors import anchor_boxes
from effdet.postprocess import postprocess
from effdet.structures import Outputs, Target
from effdet.types import DetectionLossOptions, PostprocessOptions
from effdet.weights.names import translated

TOLERANCE = 1e-4  # of an array's largest value


def bare(spec, **options):
    """The spec with a mean and a spread that leave images as they are."""
    return replace(spec, mean=(0.0,) * 3, std=(1.0,) * 3, **options)


def filled(spec, num_classes, reference, model):
    """Our network with the weights with which the outputs of SYSTEM/MODEL were recorded."""
    network = spec.build(num_classes)
    network.load_state_dict(translated(reference.state(model), spec, model))
    return network.eval()


def detector(reference, name, size):
    """Our detector with the weights of effdet's model `name`; tf_ stands for TensorFlow's padding and epsilon."""
    spec = make_spec(ModelOptions(name.removeprefix("tf_"), image_size=size))
    backbone = bare(spec.backbone)
    if name == "efficientdet_d0":
        spec, backbone = replace(spec, padding="symmetric"), replace(backbone, padding="symmetric", norm_eps=1e-5)
    return filled(replace(spec, backbone=backbone), 90, reference, f"effdet/{name}")


def classifier(reference, system, name):
    """Our classifier with the weights of timm's or torchvision's model `name`."""
    ours = name.removeprefix("tf_").replace("_v2_", "v2_")
    spec = bare(make_spec(ModelOptions(ours)))
    if system == "torchvision":
        trained_in_pytorch = name in [f"efficientnet_b{number}" for number in range(5)]
        spec = replace(spec, padding="symmetric", norm_eps=1e-5 if trained_in_pytorch else 1e-3)
    return filled(spec, 1000, reference, f"{system}/{name}")


def deviation(given, expected):
    """The largest difference, relative to the largest value."""
    assert given.shape == expected.shape
    return np.abs(given - expected).max() / np.abs(expected).max()


def deviation_of_raw_outputs(reference, name, size=(256, 256)):
    model = detector(reference, name, size)
    with torch.inference_mode():
        outputs = model(reference.image(*size))
    start, arrays, prefix, worst = 0, reference.arrays, f"effdet/{name}/{size[0]}x{size[1]}", 0.0
    for level in range(model.spec.max_level - 2):
        _, channels, height, width = arrays[f"{prefix}/class{level}/shape"]
        end = start + 9 * height * width
        assert channels == 9 * 90
        boxes = outputs.box_deltas[0, start:end, [1, 0, 3, 2]]  # theirs are (dy, dx, dh, dw)
        for kind, rows in (("class", outputs.class_logits[0, start:end]), ("box", boxes)):
            given = rows.reshape(height, width, -1).permute(2, 0, 1).flatten().numpy()
            index, expected = arrays[f"{prefix}/{kind}{level}/index"], arrays[f"{prefix}/{kind}{level}/value"]
            worst = max(worst, deviation(given[index], expected))
        start = end
    assert start == outputs.class_logits.shape[1] == len(outputs.anchors)
    return worst


def deviation_of_logits(reference, system, name):
    """Of a classifier at 96 x 96."""
    model = classifier(reference, system, name)
    with torch.inference_mode():
        given = model(reference.image(96, 96)).numpy()
    return deviation(given, reference.arrays[f"{system}/{name}/96/logits"])


# The small set


@pytest.mark.parametrize("name", ["tf_efficientdet_d0", "tf_efficientdet_lite0", "efficientdet_d0"])
def test_raw_outputs_are_those_of_effdet(reference, name):
    assert deviation_of_raw_outputs(reference, name) <= TOLERANCE


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "tf_efficientnet_lite0"])
def test_class_logits_are_those_of_timm(reference, name):
    assert deviation_of_logits(reference, "timm", name) <= TOLERANCE


def test_class_logits_with_symmetric_padding_are_those_of_torchvision(reference):
    assert deviation_of_logits(reference, "torchvision", "efficientnet_b0") <= TOLERANCE


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
    criterion = DetectionLoss(DetectionLossOptions(label_smoothing=smoothing))
    given = [value.item() for value in criterion(recorded_outputs(), recorded_targets(reference)).values()]
    assert given == pytest.approx(reference.arrays[f"loss/{name}/total_class_box"].tolist(), rel=TOLERANCE)


@pytest.mark.parametrize(("name", "nms"), [("hard", "class"), ("soft", "soft")])
def test_detections_are_those_of_effdet(reference, name, nms):
    recorded = reference.arrays[f"detections/{name}_nms/xyxy_score_label1"]
    detections = postprocess(recorded_outputs(), PostprocessOptions(nms=nms))
    for given, expected in zip(detections, recorded, strict=True):
        rows = torch.cat([given.boxes, given.scores[:, None], given.labels[:, None] + 1], 1)
        assert rows.shape == expected.shape
        np.testing.assert_allclose(rows.numpy(), expected, atol=TOLERANCE * 256, rtol=0)
        np.testing.assert_allclose(given.scores.numpy(), expected[:, 4], rtol=TOLERANCE)


# Every model


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


# V2-L and V2-XL are compared in tests/models/test_efficientnet.py: with the recorded weights they multiply rounding
# until timm itself gives logits on two machines that differ by half of the largest one.
D_SIZES = ["d1", "lite1", *slow("d2", "d3", "d4", "d5", "d6", "d7", "d7x", "lite2", "lite3", "lite3x", "lite4")]
TIMM_NAMES = [
    *("_b1", "_lite1", "v2_b0", "v2_s"),
    *slow(
        "_b2", "_b3", "_b4", "_b5", "_b6", "_b7", "_b8", "_lite2", "_lite3", "_lite4", "v2_b1", "v2_b2", "v2_b3", "v2_m"
    ),
]
TORCHVISION_NAMES = ["b1", "v2_s", *slow("b2", "b3", "b4", "b5", "b6", "b7", "v2_m")]


@pytest.mark.parametrize("size", D_SIZES)
def test_raw_outputs_of_every_detector_are_those_of_effdet(full_reference, size):
    assert deviation_of_raw_outputs(full_reference, f"tf_efficientdet_{size}") <= TOLERANCE


@pytest.mark.parametrize("name", ["efficientdet_q0", "efficientdetv2_dt"])
def test_raw_outputs_of_the_kin_are_those_of_effdet(full_reference, name):
    assert deviation_of_raw_outputs(full_reference, name) <= TOLERANCE


@pytest.mark.parametrize(("name", "size"), [("tf_efficientdet_d0", (256, 384)), ("tf_efficientdet_lite0", (320, 320))])
def test_raw_outputs_of_other_sizes_are_those_of_effdet(full_reference, name, size):
    assert deviation_of_raw_outputs(full_reference, name, size) <= TOLERANCE


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_class_logits_of_every_classifier_are_those_of_timm(full_reference, name):
    assert deviation_of_logits(full_reference, "timm", f"tf_efficientnet{name}") <= TOLERANCE


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_class_logits_of_every_classifier_are_those_of_torchvision(full_reference, name):
    assert deviation_of_logits(full_reference, "torchvision", f"efficientnet_{name}") <= TOLERANCE
