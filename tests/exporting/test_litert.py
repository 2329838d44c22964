import hashlib
import os
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from effdet.errors import ConfigError, ExportError, WeightsError
from effdet.exporting.api import export
from effdet.inference.predictor import Predictor
from effdet.models import ModelOptions, make_spec
from effdet.postprocess import postprocess
from effdet.runtimes.exported import ExportedRuntime
from effdet.runtimes.litert_file import open_graph, read_metadata
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint
from effdet.weights.exported import ExportCard, read_export_card

pytest.importorskip("litert_torch", reason="litert-torch is not installed")
pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed")

from flatbuffers import flexbuffers

from effdet.exporting import litert_file
from effdet.exporting.litert_file import store_card, write_litert
from effdet.exporting.litert_flatbuffer import LiteRTGraph

coral_client = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("coral_client.py"))))

SIZE = (64, 96)
NAMES = ("red cell", "platelet", "white\ncell")
OPTIONS = PostprocessOptions(score_threshold=0.2, nms="agnostic", max_detections=30)


def small_detector(name="efficientdet_lite0"):
    """A detector that converts in seconds, whose random weights give scores on both sides of the threshold."""
    torch.manual_seed(3)
    spec = make_spec(ModelOptions(name, image_size=SIZE, width=0.25, depth=0.2))
    model = replace(spec, channels=16, num_cells=1, num_repeats=1).build(len(NAMES)).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.2, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
        model.class_head.predict.pointwise.weight.mul_(40)
        model.class_head.predict.pointwise.bias.fill_(-4)
        model.box_head.predict.pointwise.weight.mul_(4)
    return model


@pytest.fixture(scope="module", autouse=True)
def conversions():
    """Converts equal networks once: faces and precisions differ in what is done with the result."""
    convert, made = litert_file._convert, {}

    def convert_once(network, shape):
        state = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
        key = hashlib.sha256(state).digest(), str(network), network.names, network.quantized, shape
        if key not in made:
            made[key] = convert(network, shape)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litert_file, "_convert", convert_once)
        yield made


@pytest.fixture(scope="module")
def model():
    return small_detector()


@pytest.fixture(scope="module")
def images():
    """Six images [H, W, 3] of smooth colours."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (6, 3, 6, 9)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 255).round()
    return list(smooth.permute(0, 2, 3, 1).to(torch.uint8).numpy())


def export_card(model, face, precision="float32", batch_size=1):
    options = replace(OPTIONS, nms="class") if face == "coral" else None  # the file says what it does instead
    card = ModelCard(model.spec, NAMES, (1, 2, 3))
    return ExportCard(card, face, precision, batch_size, options, source="best.pt")


@pytest.fixture(scope="module")
def written(model, images, tmp_path_factory):
    """Function that gives the file of a face and precision, converted once."""
    folder, made = tmp_path_factory.mktemp("litert"), {}

    def of(face, precision="float32", batch_size=1):
        key = f"{face}-{precision}-{batch_size}"
        if key not in made:
            path = folder / f"{key}.tflite"
            write_litert(model, export_card(model, face, precision, batch_size), path, images)
            made[key] = path
        return made[key]

    return of


def runtime(path):
    card = read_export_card(read_metadata(path), path)
    return ExportedRuntime(open_graph(path, torch.device("cpu"), 1), card, torch.device("cpu"), path.name)


def batch_of(images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@torch.no_grad()
def raw_outputs(model, images):
    return model(batch_of(images))


def largest_error(values, expected):
    return float((values - expected).abs().max() / expected.abs().max())


def test_neither_writing_nor_opening_a_file_prints_anything(model, tmp_path, capfd, conversions):
    conversions.clear()  # is the first test, so that the others use its conversion
    path = tmp_path / "model.tflite"
    write_litert(model, export_card(model, "raw"), path)
    open_graph(path, torch.device("cpu"), 1)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_raw_outputs_equal_those_of_pytorch(model, images, written):
    from effdet.boxes import decode_boxes

    outputs, expected = runtime(written("raw")).outputs(batch_of(images)), raw_outputs(model, images)
    assert list(outputs) == ["class_logits", "boxes"]
    assert largest_error(outputs["class_logits"], expected.class_logits) < 1e-3
    assert largest_error(outputs["boxes"], decode_boxes(expected.box_deltas, expected.anchors)) < 1e-3


def test_a_fixed_batch_gives_the_same_outputs(images, written):
    single, pairs = (runtime(written("raw", batch_size=size)).outputs(batch_of(images[:3])) for size in (1, 2))
    assert torch.allclose(single["class_logits"], pairs["class_logits"], atol=1e-4)


def test_images_come_in_as_uint8_with_channels_last_and_are_never_transposed(written):
    graph = LiteRTGraph(written("raw").read_bytes())
    (image,) = (graph.subgraph.tensors[number] for number in graph.subgraph.inputs)
    assert (image.name, list(image.shape), image.type) == (b"images", [1, *SIZE, 3], graph.schema.TensorType.UINT8)
    assert "TRANSPOSE" not in {graph.kind(operator) for operator in graph.subgraph.operators}


def test_the_predictor_runs_an_exported_coral_file(model, images, tmp_path, capsys):
    card = ModelCard(model.spec, NAMES, (1, 2, 3), postprocess={**vars(OPTIONS), "nms": "class"})
    save_checkpoint(tmp_path / "best.pt", model.state_dict(), card)
    result = export(tmp_path / "best.pt", "litert", face="coral")
    assert "nms is 'agnostic' in the file instead of 'class'" in capsys.readouterr().out
    expected = Predictor(tmp_path / "best.pt", "cpu", nms="agnostic")(images[0])
    actual = Predictor(result.path, "cpu")(images[0])
    assert actual.labels.tolist() == expected.labels.tolist() != []


@pytest.mark.parametrize("threads", [1, 3])
def test_detections_of_the_coral_face_equal_ours(model, images, written, threads):
    card = read_export_card(read_metadata(written("coral")), "file")
    results = ExportedRuntime(
        open_graph(written("coral"), torch.device("cpu"), threads), card, torch.device("cpu"), "file"
    ).detections(batch_of(images), OPTIONS)
    expected = postprocess(raw_outputs(model, images), OPTIONS)
    assert min(len(detections) for detections in expected) > 3
    assert len({label for detections in expected for label in detections.labels.tolist()}) > 1
    for ours, reference in zip(results, expected, strict=True):
        assert ours.labels.tolist() == reference.labels.tolist()
        assert torch.allclose(ours.scores, reference.scores, atol=1e-4)
        assert torch.allclose(ours.boxes, reference.boxes, atol=1e-3 * SIZE[1])


def test_clients_of_coral_and_frigate_read_the_outputs_by_number(model, images, written):
    interpreter = coral_client.make_interpreter(written("coral"))
    (expected,) = postprocess(raw_outputs(model, images[:1]), OPTIONS)
    coral_client.set_input(interpreter, images[0])
    interpreter.invoke()
    objects = coral_client.get_objects(interpreter)
    assert [label for label, _, _ in objects] == expected.labels.tolist()
    assert np.allclose([box for _, _, box in objects], expected.boxes.trunc(), atol=1.01)
    rows = coral_client.detect_raw(interpreter, images[0])
    above = min(int((expected.scores >= coral_client.FRIGATE_THRESHOLD).sum()), coral_client.FRIGATE_RESULTS)
    assert above > 2
    assert rows[:above, 0].tolist() == expected.labels[:above].tolist()
    assert not rows[above:].any()
    sides = np.array([SIZE[0], SIZE[1]] * 2)
    assert np.allclose(rows[:above, 2:] * sides, expected.boxes[:above, [1, 0, 3, 2]], atol=0.1)


def test_an_image_without_detections_gives_none(images, written, tmp_path):
    graph = LiteRTGraph(written("coral").read_bytes())
    operator = graph.subgraph.operators[-1]
    options = flexbuffers.Loads(bytes(operator.customOptions))
    operator.customOptions = np.frombuffer(
        bytes(flexbuffers.Dumps({**options, "nms_score_threshold": 0.9999})), np.uint8
    )
    path = tmp_path / "strict.tflite"
    path.write_bytes(graph.content())
    (detections,) = runtime(path).detections(batch_of(images[:1]), OPTIONS)
    assert len(detections) == 0
    assert not coral_client.detect_raw(coral_client.make_interpreter(path), images[0]).any()


def test_the_coral_face_says_that_its_nms_is_over_all_classes(written):
    assert read_export_card(read_metadata(written("coral")), "file").postprocess == OPTIONS


def test_the_mediapipe_face_decodes_to_the_same_detections(model, images, written):
    results = runtime(written("mediapipe")).detections(batch_of(images), OPTIONS)
    for ours, reference in zip(results, postprocess(raw_outputs(model, images), OPTIONS), strict=True):
        assert ours.labels.tolist() == reference.labels.tolist()
        assert torch.allclose(ours.boxes, reference.boxes, atol=1e-3 * SIZE[1])


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.01), ("dynamic-int8", 0.08), ("int8", 0.15)])
def test_lower_precision_stays_close_and_makes_smaller_files(model, images, written, precision, tolerance):
    outputs, expected = runtime(written("raw", precision)).outputs(batch_of(images)), raw_outputs(model, images)
    assert largest_error(outputs["class_logits"], expected.class_logits) < tolerance
    assert outputs["class_logits"].dtype == torch.float32
    assert written("raw", precision).stat().st_size < written("raw").stat().st_size


def test_an_int8_network_has_int8_operators_alone_behind_its_uint8_input(written):
    graph = LiteRTGraph(written("raw", "int8").read_bytes())
    types = graph.schema.TensorType
    (image,) = (graph.subgraph.tensors[number] for number in graph.subgraph.inputs)
    assert image.type == types.UINT8
    assert np.allclose(image.quantization.scale, 1 / 128)
    assert image.quantization.zeroPoint.tolist() == [127]
    kinds = [graph.kind(operator) for operator in graph.subgraph.operators]
    assert kinds[0] == "QUANTIZE"
    first = kinds.index("DEQUANTIZE")
    in_float = [
        any(graph.subgraph.tensors[tensor].type == types.FLOAT32 for tensor in operator.outputs)
        for operator in graph.subgraph.operators
    ]
    assert not any(in_float[:first])
    assert all(in_float[first:])
    assert not {"CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE"} & set(kinds[first:])


def test_int8_without_images_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="needs images for calibration"):
        write_litert(model, export_card(model, "raw", "int8"), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_the_card_can_be_replaced(model, images, written, tmp_path):
    for face in ("raw", "mediapipe"):
        path = tmp_path / f"{face}.tflite"
        path.write_bytes(written(face).read_bytes())
        export = read_export_card(read_metadata(path), path).with_certificate({"images": 3})
        store_card(path, export)
        assert read_export_card(read_metadata(path), path) == export
        assert abs(path.stat().st_size - written(face).stat().st_size) < 1000
        again, before = (runtime(file).outputs(batch_of(images[:1]))["class_logits"] for file in (path, written(face)))
        assert torch.equal(again, before)


def test_faces_and_batches_that_do_not_fit_are_refused(model, tmp_path):
    for face, batch_size, message in (
        ("detections", 1, "no face 'detections' for a detector; give one of raw, coral"),
        ("logits", 1, "no face 'logits' for a detector"),
        ("raw", None, "fixed batch size"),
        ("coral", 2, "one image per call, got a batch size of 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_litert(model, export_card(model, face, batch_size=batch_size), tmp_path / "model.tflite")
    soft = replace(export_card(model, "coral"), postprocess=replace(OPTIONS, nms="soft"))
    with pytest.raises(ConfigError, match="no soft-NMS"):
        write_litert(model, soft, tmp_path / "model.tflite")


def test_an_unsupported_operator_is_named_with_its_layer(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, features):
            return torch.special.bessel_j0(features)

    model = small_detector()
    model.backbone.act = Odd()
    with pytest.raises(ExportError, match=r"no operator for aten.special_bessel_j0.default, .* 'network.backbone.act'"):
        write_litert(model, export_card(model, "raw"), tmp_path / "model.tflite")


def test_a_classifier_gives_logits(images, tmp_path):
    torch.manual_seed(0)
    spec = make_spec(ModelOptions("efficientnet_b0", image_size=SIZE, width=0.25, depth=0.2))
    classifier = spec.build(5).eval()
    card = ModelCard(spec, tuple("abcde"), (0, 1, 2, 3, 4))
    path = tmp_path / "classifier.tflite"
    write_litert(classifier, ExportCard(card, "logits"), path)
    with torch.no_grad():
        expected = classifier(batch_of(images))
    assert largest_error(runtime(path).logits(batch_of(images)), expected) < 1e-3


def test_a_file_without_our_metadata_has_none(model, written, tmp_path):
    graph = LiteRTGraph(written("raw").read_bytes())
    graph.model.metadata = []
    path = tmp_path / "other.tflite"
    path.write_bytes(graph.content())
    assert read_metadata(path) is None
    assert list(open_graph(path, torch.device("cpu"), 1)(np.zeros((1, *SIZE, 3), np.uint8))) == [
        "class_logits",
        "boxes",
    ]


def test_a_damaged_file_is_named(written, tmp_path):
    content, path = written("raw").read_bytes(), tmp_path / "damaged.tflite"
    for damaged in (b"", b"text", content[:1000], content[:4] + b"XXXX" + content[8:], b"\xff" * 4 + content[4:]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"damaged.tflite: damaged or not a .tflite file"):
            read_metadata(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_metadata(tmp_path / "missing.tflite")
