import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import effdet
from effdet.errors import WeightsError
from effdet.weights.zoo import RESEARCH_NOTE, ZOO, default_entry, entries_of, entry_of_file, find_entry

DETECTORS = {
    *(f"efficientdet_d{size}" for size in range(8)),
    *(f"efficientdet_lite{size}" for size in range(5)),
    *("efficientdet_d7x", "efficientdet_lite3x", "efficientdetv2_dt", "efficientdetv2_ds"),
    *(f"efficientdet_q{size}" for size in range(3)),
}
CLASSIFIERS = {
    *(f"efficientnet_b{size}" for size in range(9)),
    *(f"efficientnet_lite{size}" for size in range(5)),
    *(f"efficientnetv2_{size}" for size in ("s", "m", "l", "xl", "b0", "b1", "b2", "b3", "rw_t", "rw_s")),
    "efficientnet_l2",
}
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
LITE = ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def test_keys_are_the_names_and_names_begin_with_the_source():
    assert all(name == entry.name and name.startswith(f"{entry.source}/") for name, entry in ZOO.items())


def test_no_two_rows_have_a_url_or_file():
    urls = [entry.url or entry.package for entry in ZOO.values()]
    assert len(set(urls)) == len(urls)
    places = [(entry.source, entry.file_name) for entry in ZOO.values()]
    assert len(set(places)) == len(places)


def test_each_family_has_all_its_rows():
    counts = Counter(entry.source for entry in ZOO.values())
    assert counts == {"effdet": 28, "zylo117": 9, "package": 3, "timm": 64, "torchvision": 12}
    assert sum(entry.black_padding for entry in ZOO.values()) == 6


def test_every_network_has_weights_and_no_other_is_named():
    assert {entry.architecture for entry in ZOO.values() if entry.task == "detection"} == DETECTORS
    assert {entry.architecture for entry in ZOO.values() if entry.task == "classification"} == CLASSIFIERS


@pytest.mark.parametrize("entry", ZOO.values(), ids=list(ZOO))
def test_a_row_agrees_with_itself(entry):
    assert (entry.url is None) == (entry.source == "package") == (entry.package is not None)
    if entry.sha256 is None:
        assert entry.source in ("zylo117", "package")
    else:
        assert entry.file_name.endswith(f"-{entry.sha256}.pth")
        assert len(entry.sha256) == 8
        assert int(entry.sha256, 16) >= 0
    assert entry.url is None or entry.url.startswith("https://")
    assert (entry.mean, entry.std) in (IMAGENET, HALF, LITE)
    assert 0.8 < entry.crop <= 1.0
    assert entry.value is None or 20 < entry.value < 90
    assert (entry.value is None) == (entry.classes == 21843)
    if entry.task == "detection":
        assert (entry.classes, entry.crop, entry.interpolation) == (90, 1.0, "bilinear")
    else:
        assert entry.classes in (1000, 21843)
        assert not entry.black_padding


@pytest.mark.parametrize(
    ("name", "url", "size", "value"),
    [
        (
            "effdet/tf_efficientdet_d0",
            "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/tf_efficientdet_d0_34-f153e0cf.pth",
            512,
            34.2,
        ),
        (
            "effdet/tf_efficientdet_d7x",
            "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/tf_efficientdet_d7x-f390b87c.pth",
            1536,
            54.3,
        ),
        (
            "effdet/tf_efficientdet_lite3x",
            "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/tf_efficientdet_lite3x-8404c57b.pth",
            640,
            43.6,
        ),
        (
            "effdet/efficientdet_q1",
            "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/efficientdet_q1b-d0612140.pth",
            640,
            40.9,
        ),
        (
            "zylo117/efficientdet-d6",
            "https://github.com/zylo117/Yet-Another-Efficient-Pytorch/releases/download/1.0/efficientdet-d6.pth",
            1280,
            50.7,
        ),
        (
            "zylo117/efficientdet-d8",
            "https://github.com/zylo117/Yet-Another-Efficient-Pytorch/releases/download/1.2/efficientdet-d8.pth",
            1536,
            53.9,
        ),
        (
            "timm/tf_efficientnet_b3.aa_in1k",
            "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/tf_efficientnet_b3_aa-84b4657e.pth",
            300,
            81.648,
        ),
        (
            "timm/tf_efficientnet_l2.ns_jft_in1k_475",
            "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/tf_efficientnet_l2_ns_475-bebbd00a.pth",
            475,
            88.246,
        ),
        (
            "timm/tf_efficientnetv2_xl.in21k_ft_in1k",
            "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-effv2-weights/tf_efficientnetv2_xl_in21ft1k-06c35c48.pth",
            512,
            86.754,
        ),
        (
            "timm/efficientnetv2_rw_t.ra2_in1k",
            "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/efficientnetv2_t_agc-3620981a.pth",
            288,
            82.354,
        ),
        (
            "torchvision/efficientnet_b1.v2",
            "https://download.pytorch.org/models/efficientnet_b1-c27df63c.pth",
            240,
            79.838,
        ),
        (
            "torchvision/efficientnet_v2_l.v1",
            "https://download.pytorch.org/models/efficientnet_v2_l-59c71312.pth",
            480,
            85.808,
        ),
    ],
)
def test_rows_are_as_published(name, url, size, value):
    entry = ZOO[name]
    assert (entry.url, entry.image_size, entry.value) == (url, size, value)


@pytest.mark.parametrize(
    ("name", "normalisation", "padding", "norm_eps"),
    [
        ("effdet/tf_efficientdet_d5", IMAGENET, "same", 1e-3),
        ("effdet/tf_efficientdet_d5_ap", HALF, "same", 1e-3),
        ("effdet/tf_efficientdet_lite4", HALF, "same", 1e-3),
        ("effdet/efficientdet_d1", IMAGENET, "symmetric", 1e-5),
        ("effdet/efficientdet_q2", IMAGENET, "symmetric", 1e-5),
        ("effdet/efficientdetv2_dt", IMAGENET, "symmetric", 1e-5),
        ("zylo117/efficientdet-d0", IMAGENET, "same", 1e-3),
        ("package/efficientnet_lite1", LITE, "same", 1e-3),
        ("timm/tf_efficientnet_b0.ap_in1k", HALF, "same", 1e-3),
        ("timm/tf_efficientnet_lite3.in1k", HALF, "same", 1e-3),
        ("timm/efficientnet_lite0.ra_in1k", IMAGENET, "symmetric", 1e-5),
        ("timm/tf_efficientnetv2_b2.in1k", IMAGENET, "same", 1e-3),
        ("timm/tf_efficientnetv2_s.in21k", HALF, "same", 1e-3),
        ("timm/efficientnet_b4.ra2_in1k", IMAGENET, "symmetric", 1e-5),
        ("torchvision/efficientnet_b4.v1", IMAGENET, "symmetric", 1e-5),
        ("torchvision/efficientnet_b5.v1", IMAGENET, "symmetric", 1e-3),
        ("torchvision/efficientnet_v2_m.v1", IMAGENET, "symmetric", 1e-3),
        ("torchvision/efficientnet_v2_l.v1", HALF, "symmetric", 1e-3),
    ],
)
def test_inputs_paddings_and_epsilons_are_those_of_the_training(name, normalisation, padding, norm_eps):
    entry = ZOO[name]
    assert ((entry.mean, entry.std), entry.padding, entry.norm_eps) == (normalisation, padding, norm_eps)


def test_anchors_are_rounded_but_for_the_newer_detectors():
    for entry in ZOO.values():
        if entry.task == "detection":
            wide = entry.anchor_aspects[1]
            assert wide == ((2**0.5, 0.5**0.5) if entry.architecture.startswith("efficientdetv2_") else (1.4, 0.7))


def test_only_advprop_detectors_are_padded_with_black():
    assert {entry.name for entry in ZOO.values() if entry.black_padding} == {
        f"effdet/tf_efficientdet_d{size}_ap" for size in range(6)
    }


def test_detectors_of_tensorflow_and_opencv_were_trained_without_antialiasing():
    plain = {entry.name for entry in ZOO.values() if not entry.antialias}
    assert plain == {name for name in ZOO if name.startswith(("effdet/tf_", "zylo117/"))}


def test_data_and_heads():
    assert ZOO["timm/tf_efficientnetv2_m.in21k"].classes == 21843
    assert ZOO["timm/tf_efficientnetv2_m.in21k"].data == "ImageNet-21k"
    assert ZOO["timm/tf_efficientnetv2_m.in21k_ft_in1k"].data == "ImageNet-21k, then ImageNet-1k"
    assert ZOO["timm/tf_efficientnet_b2.ns_jft_in1k"].data == "JFT-300M (noisy student), then ImageNet-1k"
    assert ZOO["timm/tf_efficientnet_l2.ns_jft_in1k_475"].data == "JFT-300M (noisy student), then ImageNet-1k"
    assert ZOO["torchvision/efficientnet_b0.v1"].data == "ImageNet-1k"


def test_crops_are_fractions_of_the_resized_image():
    assert ZOO["torchvision/efficientnet_b0.v1"].crop == 0.875
    assert ZOO["torchvision/efficientnet_b1.v2"].crop == 240 / 255
    assert ZOO["package/efficientnet_lite2"].crop == 260 / 292
    assert ZOO["timm/tf_efficientnet_b7.ra_in1k"].crop == 0.949
    assert ZOO["timm/tf_efficientnetv2_s.in1k"].crop == 1.0


def test_licences():
    assert {entry.source: entry.licence for entry in ZOO.values() if entry.source != "zylo117"} == {
        "effdet": "Apache-2.0",
        "timm": "Apache-2.0",
        "package": "Apache-2.0",
        "torchvision": "BSD-3-Clause",
    }
    assert "none stated" in ZOO["zylo117/efficientdet-d0"].licence
    assert "research" in RESEARCH_NOTE


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("efficientdet_d0", "effdet/tf_efficientdet_d0"),
        ("efficientdet_d7x", "effdet/tf_efficientdet_d7x"),
        ("efficientdet_q0", "effdet/efficientdet_q0"),
        ("efficientnet_lite1", "package/efficientnet_lite1"),
        ("efficientnet_lite3", "timm/tf_efficientnet_lite3.in1k"),
        ("efficientnet_b0", "timm/tf_efficientnet_b0.aa_in1k"),
        ("efficientnet_b8", "timm/tf_efficientnet_b8.ra_in1k"),
        ("efficientnet_l2", "timm/tf_efficientnet_l2.ns_jft_in1k"),
        ("efficientnetv2_s", "timm/tf_efficientnetv2_s.in21k_ft_in1k"),
        ("efficientnetv2_xl", "timm/tf_efficientnetv2_xl.in21k_ft_in1k"),
        ("efficientnetv2_b3", "timm/tf_efficientnetv2_b3.in1k"),
    ],
)
def test_the_default_of_a_network(architecture, name):
    assert find_entry(architecture) is ZOO[name]
    assert default_entry(architecture) is ZOO[name]
    assert entries_of(architecture)[0] is ZOO[name]


def test_detectors_prefer_the_plain_weights_then_advprop_then_others():
    assert [entry.name for entry in entries_of("efficientdet_d1")] == [
        "effdet/tf_efficientdet_d1",
        "effdet/tf_efficientdet_d1_ap",
        "effdet/efficientdet_d1",
        "zylo117/efficientdet-d1",
    ]


def test_no_default_has_a_head_of_imagenet_21k():
    assert {default_entry(architecture).classes for architecture in CLASSIFIERS} == {1000}


def test_a_default_may_be_asked_of_one_kind_only():
    assert default_entry("efficientdet_d0", task="detection") is ZOO["effdet/tf_efficientdet_d0"]
    assert default_entry("efficientdet_d0", task="classification") is None
    assert default_entry("efficientnet_b0", task="detection") is None
    assert default_entry("resnet50") is None
    assert entries_of("resnet50") == []


def test_a_name_of_the_zoo_finds_its_row():
    assert find_entry("zylo117/efficientdet-d8").architecture == "efficientdet_d7x"


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(WeightsError) as error:
        find_entry("tf_efficientdet_d0_app")
    assert "effdet/tf_efficientdet_d0_ap" in str(error.value)
    assert "`effdet weights list` shows all" in str(error.value)
    with pytest.raises(WeightsError, match="called '§'; `effdet"):
        find_entry("§")


def test_the_table_is_light():
    file = Path(effdet.__file__).parent / "weights" / "zoo.py"
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('zoo', {str(file)!r})\n"
        "zoo = sys.modules['zoo'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(zoo)\n"
        "print(len(zoo.ZOO), *{'torch', 'numpy', 'rich', 'filelock', 'urllib.request'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(len(ZOO))]


def test_an_entry_can_be_named_without_its_source_and_by_its_file():
    entry = ZOO["effdet/tf_efficientdet_d0"]
    assert find_entry("tf_efficientdet_d0") is entry
    assert entry_of_file("tf_efficientdet_d0_34-f153e0cf.pth") is entry
    assert entry_of_file("best.pt") is None
