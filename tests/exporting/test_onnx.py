import dataclasses
import logging

import numpy as np
import pytest
import torch
from torch import nn

from effdet.boxes import decode_boxes
from effdet.errors import ConfigError, ExportError, NotFiniteError, WeightsError
from effdet.exporting.network import SuppressingDetector
from effdet.exporting.onnx_file import onnx_model, store_card, write_onnx
from effdet.exporting.onnx_nms import suppression, translations
from effdet.exporting.openvino_file import convert_onnx
from effdet.exporting.plain_metadata import metadata_of
from effdet.models import ModelOptions, make_spec
from effdet.postprocess import best_pairs, postprocess
from effdet.runtimes import onnx_file, openvino_file
from effdet.runtimes.exported import ExportedRuntime
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.exported import ExportCard, read_export_card

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

CPU = torch.device("cpu")
FORMATS = ["onnx", "openvino"]


def trained(name, size, depth=0.2, repeats=1):
    """A small network of 3 classes whose statistics, fusion weights and scores are not those of a new one.

    `repeats` are the cells of the neck and the convolutions of each head of a detector.
    """
    torch.manual_seed(0)
    spec = make_spec(ModelOptions(name, image_size=size, depth=depth))
    if name.startswith("efficientdet"):
        spec = dataclasses.replace(spec, num_cells=repeats, num_repeats=repeats)
    model = spec.build(3).eval()
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 1.5)
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.1)
        for name, parameter in model.named_parameters():
            if name.startswith("neck.") and name.endswith(".weights"):
                parameter.uniform_(-0.2, 1)
        if hasattr(model, "class_head"):
            outputs = model(pictures(1, size))
            model.class_head.predict.pointwise.weight.mul_(1.5 / outputs.class_logits.std())
            model.box_head.predict.pointwise.weight.mul_(0.3 / outputs.box_deltas.std())
    return model


def pictures(count, size, channels=3):
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8, generator=generator)


def described(model, face, batch_size=1, precision="float32", postprocess=None):
    card = ModelCard(model.spec, ('red "cell"', "<größe> & 細胞", "c"), (4, 7, 9))
    return ExportCard(card, face, precision, batch_size, postprocess)


def opened(path, export, kind):
    """The runtime of an ONNX file, in ONNX Runtime or converted for OpenVINO."""
    if kind == "onnx":
        return ExportedRuntime(onnx_file.open_graph(path, CPU, 1), export, CPU, str(path))
    pytest.importorskip("openvino", reason="needs the extra openvino")
    xml = path.with_suffix(".xml")
    if not xml.is_file():
        convert_onnx(path, metadata_of(export), xml)
    return ExportedRuntime(openvino_file.open_graph(xml, CPU, 1), export, CPU, str(xml))


def assert_close(values, expected, tolerance=1e-5):
    assert values.shape == expected.shape
    assert (values - expected).abs().max() <= tolerance * expected.abs().max()


# Every kind of layer that a detector or a classifier has, with even and odd sizes; batch 2 is a fixed one.
# Stages, cells and heads have a second layer, because it is not of the kind of the first.
CASES = [
    ("efficientdet_lite0", (64, 96), "raw", None),
    ("efficientdet_d0", (77, 101), "raw", 1),
    ("efficientdet_q0", (64, 96), "raw", 2),
    ("efficientnetv2_b0", (64, 96), "logits", None),
    ("efficientnet_b0", (51, 64), "features", 1),
]


@pytest.fixture(scope="session", params=CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def written(request, tmp_path_factory):
    name, size, face, batch_size = request.param
    model = trained(name, size, depth=0.5, repeats=2)
    export = described(model, face, batch_size)
    path = tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
    write_onnx(model, export, path)
    return model, export, path


@pytest.mark.parametrize("kind", FORMATS)
def test_outputs_equal_those_of_pytorch(written, kind):
    model, export, path = written
    images = pictures(3, export.image_size)
    outputs = opened(path, export, kind).outputs(images)
    with torch.no_grad():
        if export.face == "raw":
            raw = model(images)
            assert list(outputs) == ["class_logits", "boxes"]
            assert_close(outputs["class_logits"], raw.class_logits)
            assert_close(outputs["boxes"], decode_boxes(raw.box_deltas, raw.anchors))
        elif export.face == "logits":
            assert_close(outputs["logits"], model(images))
        else:
            assert list(outputs) == ["c3", "c4", "c5"]
            for values, expected in zip(outputs.values(), model.features(images), strict=True):
                assert_close(values, expected)


def test_the_metadata_is_read_without_the_runtime_and_is_plain_for_other_programs(written):
    _, export, path = written
    assert read_export_card(onnx_file.read_metadata(path), path) == export
    texts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert '"<größe> & 細胞"' in texts["names"]
    assert texts["image_size"].startswith(f"{export.image_size[0]} x {export.image_size[1]}")


def test_the_plain_metadata_says_how_images_fit_into_the_input():
    model = trained("efficientdet_lite0", (64, 96))
    padded = described(model, "raw")
    spec = dataclasses.replace(model.spec, letterbox="stretch")
    stretched = dataclasses.replace(padded, model=dataclasses.replace(padded.model, spec=spec))
    assert "padded with RGB [127, 127, 127]" in metadata_of(padded)["letterbox"]
    assert metadata_of(stretched)["letterbox"].startswith("stretched")


def test_operators_are_named_after_their_layers_and_hold_no_local_paths(written):
    _, _, path = written
    names = [node.name for node in onnx.load(path).graph.node]
    assert len(names) == len(set(names))
    assert any(name.endswith("blocks.1.0.conv_pwl/Conv") or name.startswith("blocks.") for name in names)
    assert b"effdet/models" not in path.read_bytes()


def test_the_graph_has_no_padding_operators_and_no_batch_norm(written):
    kinds = {node.op_type for node in onnx.load(written[2]).graph.node}
    assert not {"Pad", "BatchNormalization"} & kinds


SIZE = (64, 96)


@pytest.fixture(scope="session")
def detecting(tmp_path_factory):
    """A detector with NMS inside, and two images, of which the second has no detections."""
    model = trained("efficientdet_lite0", SIZE)
    images = pictures(2, SIZE)
    images[1] = 128
    with torch.no_grad():
        outputs = model(images)
    first, second = outputs.class_logits.amax((1, 2)).sigmoid().tolist()
    if first < second:
        images = images.flip(0)
    options = PostprocessOptions(score_threshold=(first + second) / 2, max_detections=20)
    export = described(model, "detections", None, postprocess=options)
    path = tmp_path_factory.mktemp("detections") / "model.onnx"
    write_onnx(model, export, path)
    return model, export, path, images


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("order", [[0], [1], [0, 1, 0]])
def test_detections_equal_those_of_pytorch(detecting, kind, order):
    model, export, path, images = detecting
    with torch.no_grad():
        expected = postprocess(model(images[order]), export.postprocess)
    runtime = opened(path, export, kind)
    found = runtime.detections(images[order], export.postprocess)
    assert [len(result) for result in found] == [len(result) for result in expected]
    assert [len(result) > 0 for result in found] == [image == 0 for image in order]
    for result, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(result.scores, reference.scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(result.boxes, reference.boxes, rtol=1e-4, atol=1e-3)
        assert result.labels.equal(reference.labels)
    outputs = runtime.outputs(images[order])
    for row, result in enumerate(expected):
        assert not any(outputs[name][row, len(result) :].any() for name in ("boxes", "scores", "labels"))


class Suppressed(nn.Module):
    """NMS alone."""

    def __init__(self, options):
        super().__init__()
        self.options, self.suppress = options, suppression(4)

    def forward(self, boxes, scores, labels):
        return self.suppress(boxes, scores, labels, self.options)


@pytest.mark.parametrize("method", ["class", "agnostic"])
@pytest.mark.parametrize("most", [5, 60])
def test_nms_selects_the_same_in_onnx_as_in_pytorch(tmp_path, method, most):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 40, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + torch.rand(3, 40, 2, generator=generator) * 50], 2)
    scores = torch.rand(3, 40, generator=generator).sort(dim=1, descending=True).values
    scores[1, 3:], scores[2] = 0, 0
    labels = torch.randint(0, 4, (3, 40), generator=generator)
    network = Suppressed(PostprocessOptions(nms=method, max_detections=most)).eval()
    inputs = boxes, scores, labels
    path = tmp_path / "nms.onnx"
    program = torch.onnx.export(network, inputs, dynamo=True, custom_translation_table=translations(), verbose=False)
    program.save(path)
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    feeds = {node.name: value.numpy() for node, value in zip(session.get_inputs(), inputs, strict=True)}
    for values, expected in zip(session.run(None, feeds), network(*inputs), strict=True):
        assert values.shape == expected.shape
        assert np.array_equal(values, expected.numpy())


class Pairs(nn.Module):
    """The choice of candidates alone, of so many classes that they are searched in groups."""

    def forward(self, class_logits):
        return best_pairs(class_logits, 60, in_groups=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_candidates_of_many_classes_are_the_same_in_files(tmp_path, kind):
    logits = torch.randn(3, 200, 50, generator=torch.Generator().manual_seed(0))
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.onnx.export(Pairs(), (logits,), dynamo=True, dynamic_shapes={"class_logits": batch}, verbose=False)
    path = tmp_path / "pairs.onnx"
    program.save(path)
    assert sum(node.op_type == "TopK" for node in onnx.load(path).graph.node) == 3
    import onnxruntime

    for count in (1, 3):
        expected = Pairs()(logits[:count])
        if kind == "onnx":
            results = onnxruntime.InferenceSession(path).run(None, {"class_logits": logits[:count].numpy()})
        else:
            openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
            results = openvino.Core().compile_model(path, "CPU")([logits[:count].numpy()]).values()
        for values, wanted in zip(results, expected, strict=True):
            assert np.array_equal(values, wanted.numpy())


def test_nms_in_pytorch_equals_the_postprocessing(detecting):
    model, export, _, images = detecting
    network = SuppressingDetector(model, export.postprocess, suppression(3))
    with torch.no_grad():
        boxes, scores, labels, counts = network(images.permute(0, 2, 3, 1))
        expected = postprocess(model(images), export.postprocess)
    assert counts.tolist() == [len(result) for result in expected]
    for row, result in enumerate(expected):
        torch.testing.assert_close(scores[row, : counts[row]], result.scores)
        assert labels[row, : counts[row]].equal(result.labels.int())
        torch.testing.assert_close(boxes[row, : counts[row]], result.boxes, rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="session", params=["class_head", "box_head"])
def broken(request, detecting, tmp_path_factory):
    """The file of that detector with NaN among the weights of a head."""
    content = onnx.load(detecting[2])
    name = f"{request.param}.predict.pointwise.weight"
    (weight,) = (tensor for tensor in content.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, name))
    path = tmp_path_factory.mktemp("broken") / "model.onnx"
    onnx.save(content, path)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_with_nan_in_the_network_is_no_image_without_objects(detecting, broken, kind):
    _, export, _, images = detecting
    runtime = opened(broken, export, kind)
    outputs = runtime.outputs(images)
    assert outputs["counts"].tolist() == [0, 0]
    assert outputs["scores"].isnan().all()
    with pytest.raises(NotFiniteError, match="image 1 of the batch are NaN or Inf"):
        runtime.detections(images, export.postprocess)


def test_soft_nms_is_refused(detecting):
    model, export, _, _ = detecting
    soft = dataclasses.replace(export, postprocess=PostprocessOptions(nms="soft"))
    with pytest.raises(ConfigError, match=r"soft-NMS cannot be inside an exported file; .* --face raw"):
        onnx_model(model, soft)


def test_a_face_of_another_kind_of_model_is_refused(detecting):
    model, export, _, _ = detecting
    with pytest.raises(ConfigError, match=r"a detector has no outputs 'logits' .* detections, raw, features"):
        onnx_model(model, dataclasses.replace(export, face="logits"))


@pytest.mark.parametrize("kind", FORMATS)
def test_another_card_replaces_the_stored_one(detecting, tmp_path, kind):
    _, export, path, images = detecting
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    certified = export.with_certificate({"difference": 1e-6})
    before = opened(copy, export, kind).outputs(images)["boxes"]
    if kind == "onnx":
        store_card(copy, certified)
        assert read_export_card(onnx_file.read_metadata(copy), copy) == certified
    else:
        from effdet.exporting.openvino_file import store_card as store_in_openvino

        xml = copy.with_suffix(".xml")
        assert read_export_card(openvino_file.read_metadata(xml), xml) == export
        store_in_openvino(xml, certified)
        assert read_export_card(openvino_file.read_metadata(xml), xml) == certified
    assert opened(copy, export, kind).outputs(images)["boxes"].equal(before)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A classifier stored in float32 and in float16."""
    model = trained("efficientnet_lite0", SIZE)
    folder = tmp_path_factory.mktemp("small")
    for precision in ("float32", "float16"):
        write_onnx(model, described(model, "logits", 1, precision), folder / f"{precision}.onnx")
    return model, folder


@pytest.mark.parametrize("kind", FORMATS)
def test_float16_halves_the_file_and_agrees(small, kind):
    model, folder = small
    images = pictures(2, SIZE)
    with torch.no_grad():
        expected = model(images)
    runtime = opened(folder / "float16.onnx", described(model, "logits", 1, "float16"), kind)
    assert_close(runtime.logits(images), expected, 2e-2)
    sizes = [(folder / f"{precision}.onnx").stat().st_size for precision in ("float16", "float32")]
    assert sizes[0] < 0.52 * sizes[1]
    if kind == "openvino":
        assert (folder / "float16.bin").stat().st_size < 0.52 * sizes[1]


def test_weights_beyond_float16_are_refused_with_their_layer():
    model = trained("efficientnet_lite0", SIZE)
    with torch.no_grad():
        model.classifier.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"classifier/\w+: has weights beyond 65504"):
        onnx_model(model, described(model, "logits", 1, "float16"))


class Airy(nn.Module):
    def forward(self, features):
        return torch.special.airy_ai(features)


def test_an_operator_that_onnx_lacks_is_named_with_its_layer_and_nothing_is_left(tmp_path, capfd):
    model = trained("efficientnet_lite0", SIZE)
    model.blocks[1][0].act = Airy()
    level = logging.root.manager.disable
    with pytest.raises(ExportError, match=r"no operator for aten.special_airy_ai.* of the layer blocks\.1\.0\.act"):
        write_onnx(model, described(model, "logits"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == level


def test_writing_prints_nothing(tmp_path, capfd, caplog):
    model = trained("efficientnet_lite0", SIZE)
    write_onnx(model, described(model, "features"), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, package):
    monkeypatch.setattr("effdet.exporting.onnx_file.find_spec", lambda name: None if name == package else "there")
    model = trained("efficientnet_lite0", SIZE)
    with pytest.raises(ConfigError, match=rf'{package} is not installed; run pip install "efficientdet-torch\[onnx\]"'):
        write_onnx(model, described(model, "logits"), tmp_path / "model.onnx")


def test_the_missing_runtime_is_named_with_its_extra(monkeypatch, small):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        ConfigError, match=r'onnxruntime is not installed; run pip install "efficientdet-torch\[onnx\]"'
    ):
        onnx_file.open_graph(small[1] / "float32.onnx", CPU)


@pytest.mark.parametrize("keep", [0, 10, -1000])
def test_a_damaged_file_is_refused(small, tmp_path, keep):
    content = (small[1] / "float32.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[:keep])
    with pytest.raises(WeightsError, match=r"cut\.onnx: damaged or not an ONNX file; export it again"):
        onnx_file.read_metadata(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "picture.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10)
    with pytest.raises(WeightsError, match="damaged or not an ONNX file"):
        onnx_file.read_metadata(path)
    with pytest.raises(WeightsError, match=r"picture\.onnx: ONNX Runtime .* cannot run it"):
        onnx_file.open_graph(path, CPU)


def changed(small, tmp_path, change):
    """An ONNX file with a changed content."""
    content = onnx.load(small[1] / "float32.onnx")
    change(content)
    path = tmp_path / "changed.onnx"
    onnx.save(content, path)
    return path


def test_a_file_without_our_metadata_has_none(small, tmp_path):
    path = changed(small, tmp_path, lambda content: content.ClearField("metadata_props"))
    assert onnx_file.read_metadata(path) is None


def test_an_operator_that_the_runtime_lacks_is_named(small, tmp_path):
    def change(content):
        content.graph.node[3].op_type = "Convolve"

    path = changed(small, tmp_path, change)
    with pytest.raises(WeightsError, match=r"changed\.onnx: ONNX Runtime [\d.]+ cannot run it: .*Convolve"):
        onnx_file.open_graph(path, CPU)


def test_a_newer_opset_than_the_runtime_knows_is_named(small, tmp_path):
    def change(content):
        content.opset_import[0].version = 99

    path = changed(small, tmp_path, change)
    with pytest.raises(WeightsError, match=r"ONNX Runtime [\d.]+ cannot run it: .*99"):
        onnx_file.open_graph(path, CPU)
