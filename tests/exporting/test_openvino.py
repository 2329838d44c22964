import shutil

import pytest
import torch

from effdet.errors import ConfigError, WeightsError
from effdet.exporting.openvino_file import write_openvino
from effdet.models import ModelOptions, make_spec
from effdet.runtimes.openvino_file import open_graph, read_metadata
from effdet.weights.card import ModelCard
from effdet.weights.exported import ExportCard, read_export_card

pytest.importorskip("openvino", reason="needs the extra openvino")
pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(0)
    model = make_spec(ModelOptions("efficientnet_lite0", image_size=(64, 96), depth=0.2)).build(3).eval()
    export = ExportCard(ModelCard(model.spec, ('"a" & b', "<größe>", "細胞"), (1, 2, 3)), "features", batch_size=2)
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    write_openvino(model, export, path)
    return model, export, path


@pytest.fixture
def copied(backbone, tmp_path):
    """A copy of the files to change."""
    for file in backbone[2].parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / backbone[2].name


def test_only_the_two_files_are_written(backbone):
    assert sorted(file.name for file in backbone[2].parent.iterdir()) == ["model.bin", "model.xml"]


def test_the_metadata_is_read_without_openvino(backbone, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    _, export, path = backbone
    assert read_export_card(read_metadata(path), path) == export


def test_outputs_have_their_names_and_equal_those_of_pytorch(backbone):
    model, _, path = backbone
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    outputs = open_graph(path, CPU, 1)(images.numpy())
    assert list(outputs) == ["c3", "c4", "c5"]
    with torch.no_grad():
        for values, expected in zip(outputs.values(), model.features(images.permute(0, 3, 1, 2)), strict=True):
            assert abs(torch.from_numpy(values) - expected).max() <= 1e-5 * expected.abs().max()


def test_results_of_a_call_stay_when_the_next_one_runs(backbone):
    run = open_graph(backbone[2], CPU, 1)
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8).numpy()
    first = run(images)["c5"]
    before = first.copy()
    run(255 - images)
    assert (first == before).all()


def test_missing_weights_are_named(copied):
    copied.with_suffix(".bin").unlink()
    with pytest.raises(WeightsError, match=r"model\.xml: its weights are missing; copy model\.bin to the same folder"):
        read_metadata(copied)


def test_a_damaged_file_is_refused(copied):
    text = copied.read_bytes()
    copied.write_bytes(text[: len(text) // 2])
    with pytest.raises(WeightsError, match=r"model\.xml: damaged .* export it again"):
        read_metadata(copied)
    with pytest.raises(WeightsError, match=r"model\.xml: OpenVINO .* cannot run it"):
        open_graph(copied, CPU)


def test_shortened_weights_are_refused(copied):
    weights = copied.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model\.xml: OpenVINO .* cannot run it"):
        open_graph(copied, CPU)


def test_another_kind_of_xml_is_refused(tmp_path):
    path = tmp_path / "labels.xml"
    path.write_text("<annotation><object/></annotation>")
    with pytest.raises(WeightsError, match=r"labels\.xml: not a model of OpenVINO"):
        read_metadata(path)


def test_a_newer_version_of_the_format_is_refused(copied):
    copied.write_text(copied.read_text(encoding="utf-8").replace('version="11"', 'version="99"', 1), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"model\.xml: OpenVINO .* cannot run it"):
        open_graph(copied, CPU)


def test_a_file_of_another_program_has_no_metadata(copied):
    text = copied.read_text(encoding="utf-8")
    copied.write_text(text.replace("<effdet ", "<other "), encoding="utf-8")
    assert read_metadata(copied) is None


def test_the_missing_package_is_named_with_its_extra(backbone, monkeypatch, tmp_path):
    model, export, path = backbone
    message = r'openvino is not installed; run pip install "efficientdet-torch\[openvino\]"'
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ConfigError, match=message):
        open_graph(path, CPU)
    monkeypatch.setattr("effdet.exporting.onnx_file.find_spec", lambda name: None if name == "openvino" else "there")
    with pytest.raises(ConfigError, match=message):
        write_openvino(model, export, tmp_path / "model.xml")
    assert list(tmp_path.iterdir()) == []
