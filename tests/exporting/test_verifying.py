from dataclasses import replace

import pytest
import torch

from effdet.errors import ConfigError, WeightsError
from effdet.exporting.certifying import CompareOptions, make_certificate
from effdet.exporting.pipeline import content_hash
from effdet.exporting.verifying import verify_file
from effdet.runtimes.exported import ExportedRuntime
from effdet.runtimes.opening import ModelFile
from effdet.weights.checkpoint import load_checkpoint

NOTHING = CompareOptions()


@pytest.fixture
def verified(file_of, detector, tmp_path, monkeypatch):
    """Function that verifies a file of `source` which changes its outputs after the certificate was made."""

    def verify(
        face="raw", change=lambda outputs: outputs, weights=None, compare=NOTHING, certificate=True, source=detector
    ):
        checkpoint, sound = load_checkpoint(source), file_of(source, face)
        made = make_certificate(checkpoint, source, sound, NOTHING, (), lambda line: None).to_dict()
        export = replace(sound.export, source_sha256=content_hash(checkpoint.model))
        export = export.with_certificate(made if certificate else {})
        changed = file_of(source, face, change)
        runtime = ExportedRuntime(changed._graph, export, torch.device("cpu"), str(tmp_path / "model.pt2"))
        model = ModelFile(export.model, lambda device, precision: runtime, exported=True)
        monkeypatch.setattr("effdet.exporting.verifying.open_model", lambda file, threads, metadata: model)
        lines = []
        return verify_file(tmp_path / "model.pt2", weights, compare=compare, show=lines.append)

    return verify


def scaled(outputs):
    return {name: values * 1.01 for name, values in outputs.items()}


def moved(outputs):
    outputs["boxes"] += 3
    return outputs


def not_a_number(outputs):
    return {name: values * torch.nan for name, values in outputs.items()}


def test_a_file_alone_whose_outputs_are_nan_differs(verified, classifier):
    result = verified("logits", not_a_number, source=classifier)
    assert not result.agrees
    assert "DIFFERS from the PyTorch model" in result.lines[-1]


@pytest.mark.parametrize("face", ["raw", "detections"])
def test_a_file_alone_is_compared_with_the_references_in_it(verified, face):
    result = verified(face)
    assert result.agrees
    assert "best.pt is not here" in result.lines[0]
    assert "3 of 3 drawn images" in result.lines[1]
    assert result.lines[-1].endswith("agrees with the PyTorch model")


@pytest.mark.parametrize(("face", "change"), [("raw", scaled), ("raw", moved), ("detections", moved)])
def test_a_changed_file_differs_with_and_without_its_checkpoint(verified, detector, face, change):
    for weights in (None, detector):
        result = verified(face, change, weights)
        assert not result.agrees
        assert "DIFFERS from the PyTorch model" in result.lines[-1]


def test_with_the_checkpoint_the_comparison_of_the_export_is_repeated(verified, detector):
    result = verified("detections", weights=detector)
    assert result.agrees
    assert result.certificate.comparison.matching.different == 0
    assert "the one that was exported" in result.lines[0]
    assert "on the same images" in result.lines[1]


def test_the_checkpoint_beside_the_file_is_used(verified, detector, other_detector, tmp_path):
    (tmp_path / "best.pt").write_bytes(detector.read_bytes())
    assert verified().certificate.agrees
    (tmp_path / "best.pt").write_bytes(other_detector.read_bytes())
    assert not verified().agrees


def test_another_checkpoint_is_no_source(verified, other_detector):
    result = verified(weights=other_detector)
    assert not result.agrees
    assert "are not those of best.pt that were exported" in result.lines[0]


def test_without_a_certificate_the_checkpoint_is_needed(verified, detector, tmp_path):
    with pytest.raises(WeightsError, match="has no certificate; export it again, or give --weights"):
        verified(certificate=False)
    assert verified(certificate=False, weights=detector).agrees
    (tmp_path / "best.pt").write_bytes(detector.read_bytes())
    assert verified(certificate=False).agrees


def test_images_and_data_need_the_checkpoint(verified, tmp_path):
    with pytest.raises(ConfigError, match=r"its checkpoint best\.pt is not beside it; give it with --weights"):
        verified(compare=CompareOptions(images=tmp_path))


def test_a_checkpoint_is_no_exported_file(detector):
    with pytest.raises(ConfigError, match=r"best\.pt: is no exported file"):
        verify_file(detector, compare=NOTHING, show=lambda line: None)
