import json
import multiprocessing
import os
from typing import ClassVar

import numpy as np
import pytest
import torch

from effdet.data.synthetic.scenes import draw_scene
from effdet.errors import ConfigError, DataError, EffdetError, WeightsError
from effdet.inference.benchmark import comparison
from effdet.inference.benchmark.inputs import benchmark_image, find_subjects, write_random_checkpoint
from effdet.inference.benchmark.machine import busy_warning, machine, package_versions
from effdet.inference.benchmark.measuring import NMS_INSIDE, STAGES, Facts, MeasuredModel
from effdet.inference.benchmark.process import ModelProcess
from effdet.inference.benchmark.settings import Settings
from effdet.models import ModelOptions, make_spec
from effdet.runtimes.exported import ExportedRuntime
from effdet.runtimes.opening import ModelFile
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint
from effdet.weights.exported import ExportCard

QUICK = Settings(device="cpu", runs=2, turns=2, warmup=1, batch_size=2, threads=1)
NETWORK_ALONE = set(STAGES) - {"network", "postprocessing"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A detector of small images with random weights."""
    path = tmp_path_factory.mktemp("weights") / "lite0.pt"
    write_random_checkpoint("efficientdet_lite0", path, (128, 128))
    return path


@pytest.fixture
def image(tmp_path):
    return benchmark_image(None, tmp_path).path


def card_of(name, size=(64, 96), num_classes=2):
    spec = make_spec(ModelOptions(name, image_size=size))
    return ModelCard(spec, tuple("ab"[:num_classes]), tuple(range(num_classes)))


def raw_graph(images):
    shape = len(images), 5
    boxes = np.broadcast_to(np.array([1, 2, 30, 40], np.float32), (*shape, 4)).copy()
    return {"class_logits": np.full((*shape, 2), 2.0, np.float32), "boxes": boxes}


def nms_graph(images):
    count = len(images)
    return {
        "boxes": np.full((count, 3, 4), 5, np.float32),
        "scores": np.tile(np.array([[0.9, 0.8, 0.0]], np.float32), (count, 1)),
        "labels": np.zeros((count, 3), np.int64),
        "counts": np.full(count, 2),
    }


def open_fake(monkeypatch, face, graph, name="efficientdet_lite0", **fields):
    """Makes the predictor open an exported file with the outputs of a function."""
    card = card_of(name)

    def start(device, precision="auto"):
        export = ExportCard(card, face, **fields)
        return ExportedRuntime(graph, export, torch.device("cpu"), "fake.onnx")

    monkeypatch.setattr("effdet.inference.predictor.open_model", lambda weights, **options: ModelFile(card, start))


# One model


def test_every_stage_of_a_detector_is_measured_once_per_run(weights, image):
    model = MeasuredModel(str(weights), image, QUICK)
    samples = model.latency(3, 1.0)
    assert set(samples) == set(STAGES)
    assert all(len(durations) == 3 and min(durations) > 0 for durations in samples.values())
    for network, after, both in zip(
        samples["network"], samples["postprocessing"], samples["network_and_postprocessing"], strict=True
    ):
        assert both == pytest.approx(network + after)


def test_facts_name_the_runtime_and_the_input(weights, image):
    facts = MeasuredModel(str(weights), image, QUICK).facts
    assert (facts.task, facts.runtime, facts.package) == ("detection", "PyTorch", "torch")
    assert (facts.precision, facts.device, facts.image_size) == ("float32", "cpu", (128, 128))
    assert (facts.fixed_batch, facts.together) == (None, None)
    assert 0 < facts.detections <= 100
    assert facts.load_seconds > 0
    assert facts.first_seconds > 0


def test_with_a_low_confidence_threshold_random_weights_detect(weights, image):
    facts = MeasuredModel(str(weights), image, Settings(device="cpu", score_threshold=0.001)).facts
    assert facts.detections == 100


def test_a_turn_that_is_limited_by_time_has_at_least_two_runs(weights, image):
    model = MeasuredModel(str(weights), image, QUICK)
    assert len(model.latency(None, 1e-9)["end_to_end"]) == 2


def test_throughput_streams_whole_batches(monkeypatch, image):
    sizes = []

    def graph(images):
        sizes.append(len(images))
        return raw_graph(images)

    open_fake(monkeypatch, "raw", graph, batch_size=None)
    model = MeasuredModel("fake.onnx", image, Settings(device="cpu", batch_size=3, warmup=1))
    for runs, batches in ((1, 2), (7, 3), (None, 2)):
        sizes.clear()
        assert model.throughput(runs, 1e-9) > 0
        assert sizes == [3] * batches


def test_a_file_with_raw_outputs_has_all_stages(monkeypatch, image):
    open_fake(monkeypatch, "raw", raw_graph, batch_size=1)
    model = MeasuredModel("fake.onnx", image, QUICK)
    assert set(model.latency(1, 1.0)) == set(STAGES)
    assert (model.facts.runtime, model.facts.package) == ("ONNX Runtime", "onnxruntime")
    assert (model.facts.fixed_batch, model.facts.together, model.facts.detections) == (1, None, 2)


def test_network_and_nms_of_a_file_are_measured_together(monkeypatch, image):
    open_fake(monkeypatch, "detections", nms_graph, postprocess=PostprocessOptions())
    model = MeasuredModel("fake.xml", image, QUICK)
    assert set(model.latency(1, 1.0)) == NETWORK_ALONE
    assert (model.facts.runtime, model.facts.together, model.facts.detections) == ("OpenVINO", NMS_INSIDE, 2)


def test_a_classifier_has_the_same_stages(monkeypatch, image):
    open_fake(
        monkeypatch, "logits", lambda images: {"logits": np.ones((len(images), 2), np.float32)}, "efficientnet_lite0"
    )
    model = MeasuredModel("fake.tflite", image, QUICK)
    assert set(model.latency(1, 1.0)) == set(STAGES)
    assert (model.facts.task, model.facts.detections) == ("classification", None)


def test_an_exported_file_keeps_its_precision_and_gets_the_threads(monkeypatch, image):
    given = []

    def opened(weights, **options):
        card = card_of("efficientdet_lite0")

        def start(device, precision):
            given.append((options["threads"], precision))
            return ExportedRuntime(raw_graph, ExportCard(card, "raw", "int8"), torch.device("cpu"), "fake")

        return ModelFile(card, start)

    monkeypatch.setattr("effdet.inference.predictor.open_model", opened)
    settings = Settings(device="cpu", threads=3, precision="bf16", warmup=1)
    facts = MeasuredModel("fake.onnx", image, settings).facts
    assert (facts.precision, facts.threads) == ("int8", 3)
    assert given == [(3, "auto")]


@pytest.mark.parametrize("name", ["efficientdet_lite0", "efficientnet_lite0"])
def test_a_backbone_is_refused(monkeypatch, image, name):
    open_fake(monkeypatch, "features", lambda images: {"c3": np.zeros((len(images), 1))}, name)
    with pytest.raises(ConfigError, match=r"fake\.onnx: has the face 'features'"):
        MeasuredModel("fake.onnx", image, QUICK)


def test_memory_is_that_of_the_process_since_the_model_was_opened(weights, image):
    growth, device = MeasuredModel(str(weights), image, QUICK).memory()
    assert growth >= 0
    assert device is None


# Inputs


def test_random_weights_are_the_same_every_time_and_leave_the_random_state(weights, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    write_random_checkpoint("efficientdet_lite0", tmp_path / "again.pt", (128, 128))
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second = load_checkpoint(weights), load_checkpoint(tmp_path / "again.pt")
    assert first.card.spec.image_size == (128, 128)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_scores_of_random_weights_vary_and_few_are_high(weights):
    model = load_checkpoint(weights).model
    scenes = torch.from_numpy(np.stack([draw_scene(1, index, (256, 256)).image for index in range(4)]))
    with torch.inference_mode():
        logits = model(scenes.permute(0, 3, 1, 2)).class_logits
    assert 0.5 < logits.std() < 4
    assert 0.002 < (logits.sigmoid() > 0.01).float().mean() < 0.2


def test_names_of_models_get_random_weights_and_files_stay_as_they_are(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "effdet.inference.benchmark.inputs.write_random_checkpoint", lambda *arguments: written.append(arguments)
    )
    name, path = find_subjects(["efficientdet_d0", "best.pt"], None, tmp_path)
    assert (name.name, name.random) == ("efficientdet_d0", True)
    assert (path.name, path.weights, path.random) == ("best.pt", "best.pt", False)
    assert [arguments[0] for arguments in written] == ["efficientdet_d0"]
    with pytest.raises(ConfigError, match=r"best\.pt: a file has an input size of its own; leave --image-size out"):
        find_subjects(["best.pt"], (64, 64), tmp_path)


def test_the_image_is_a_drawn_jpeg_or_the_given_file(tmp_path):
    drawn = benchmark_image(None, tmp_path)
    assert drawn.size == (480, 640)
    assert drawn.path.read_bytes()[:2] == b"\xff\xd8"
    assert drawn.description.startswith("a drawn JPEG of 640 x 480 pixels")
    given = benchmark_image(str(drawn.path), tmp_path)
    assert given.description.startswith("scene.jpg of 640 x 480 pixels")


def test_a_missing_or_damaged_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jpg: no such image"):
        benchmark_image(tmp_path / "none.jpg", tmp_path)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(benchmark_image(None, tmp_path).path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut\.jpg: the image is cut off"):
        benchmark_image(cut, tmp_path)


@pytest.mark.parametrize("name", ["threads", "batch_size", "runs", "warmup", "turns", "seconds"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is 0; expected"):
        Settings(**{name: 0})


def test_runs_are_divided_among_the_turns():
    assert Settings(runs=10, turns=4).runs_per_turn == 3
    assert Settings(runs=4, turns=4).runs_per_turn == 1
    assert Settings().runs_per_turn is None


# Several models


class FakeProcess:
    """A model whose first stage needs a second, two seconds and so on, by turn."""

    calls: ClassVar = []

    def __init__(self, subject, image, settings):
        self.subject, self.turn = subject, 0
        together = NMS_INSIDE if subject.name == "nms" else None
        self.facts = Facts("detection", "PyTorch", "torch", "float32", "cpu", 2, (64, 64), None, together, 7, 0.5, 0.25)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def latency(self, runs, seconds):
        self.turn += 1
        self.calls.append(self.subject.name)
        stages = sorted(NETWORK_ALONE) if self.facts.together else STAGES
        factor = 2 if self.subject.name == "slow" else 1
        return {stage: [factor * self.turn * (number + 1) / 1000 for number in range(runs)] for stage in stages}

    def throughput(self, runs, seconds):
        return 10.0 / (2 if self.subject.name == "slow" else 1)

    def memory(self):
        return 1000, None


@pytest.fixture
def report_of(monkeypatch):
    def report(models, **options):
        FakeProcess.calls = []
        monkeypatch.setattr(comparison, "ModelProcess", FakeProcess)
        settings = Settings(runs=6, turns=2)
        return comparison.compare(models, settings, show=lambda line: None, **options)

    return report


def test_models_are_measured_in_turns_and_each_turn_begins_with_another(report_of):
    report_of(["a", "b", "c"])
    assert FakeProcess.calls == ["a", "b", "c", "b", "c", "a"]


def test_a_report_is_json_with_machine_versions_settings_and_models(report_of):
    report = json.loads(json.dumps(report_of(["a", "nms"])))
    assert set(report) == {"format", "time", "machine", "warnings", "versions", "settings", "models", "versus"}
    assert set(report["machine"]) == {"cpu", "cores", "memory_bytes", "gpu", "system"}
    assert {"python", "torch", "efficientdet-torch"} <= set(report["versions"])
    assert report["settings"]["runs"] == 6
    assert report["settings"]["image_pixels"] == [480, 640]
    assert report["versus"] is None
    first, second = report["models"]
    assert set(first) == {
        *("name", "random_weights", "stages", "images_per_second", "memory_bytes", "device_memory_bytes"),
        *Facts.__dataclass_fields__,
    }
    assert list(first["stages"]) == list(STAGES)
    assert set(second["stages"]) == NETWORK_ALONE
    assert first["images_per_second"] == {"median": 10.0, "turns": [10.0, 10.0]}


def test_percentiles_are_over_the_runs_of_all_turns(report_of):
    (model,) = report_of(["a"])["models"]
    row = model["stages"]["network"]
    milliseconds = [1, 2, 3, 2, 4, 6]
    assert row["runs"] == 6
    assert row["p50_ms"] == pytest.approx(np.percentile(milliseconds, 50))
    assert row["p95_ms"] == pytest.approx(np.percentile(milliseconds, 95))
    assert (row["min_ms"], row["max_ms"]) == pytest.approx((1, 6))
    assert row["turn_p50_ms"] == pytest.approx([2, 4])


def test_ratios_are_those_to_the_last_model_with_the_range_of_the_turns(report_of):
    versus = report_of(["slow", "nms"], versus="fast")["versus"]
    assert versus["name"] == "fast"
    slow, nms = versus["ratios"]
    assert slow["name"] == "slow"
    assert slow["network"] == pytest.approx({"ratio": 2, "lowest": 2, "highest": 2})
    assert slow["images_per_second"] == pytest.approx({"ratio": 0.5, "lowest": 0.5, "highest": 0.5})
    assert set(nms) == {"name", "images_per_second", *NETWORK_ALONE}


# The process of a model and the machine


def test_a_model_is_measured_in_a_process_of_its_own(weights, image):
    (subject,) = find_subjects([str(weights)], None, image.parent)
    with ModelProcess(subject, image, QUICK) as process:
        assert process.facts.threads == 1
        assert set(process.latency(1, 1.0)) == set(STAGES)
        assert process.throughput(1, 1.0) > 0
        assert process.memory()[0] > 2**20
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []


def test_an_error_in_the_process_of_a_model_is_raised_here(tmp_path, image):
    (subject,) = find_subjects([str(tmp_path / "none.pt")], None, tmp_path)
    with pytest.raises(EffdetError, match=r"none\.pt: no such weights file"):
        ModelProcess(subject, image, QUICK)
    assert multiprocessing.active_children() == []


def test_a_process_that_crashes_is_named(weights, image, monkeypatch):
    monkeypatch.setattr("effdet.inference.benchmark.process._serve", os._exit)  # which refuses the arguments
    (subject,) = find_subjects([str(weights)], None, image.parent)
    with pytest.raises(EffdetError, match=r"lite0\.pt: its process ended with exit status 1"):
        ModelProcess(subject, image, QUICK)


def test_a_busy_machine_is_noticed(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 9, 9))
    assert busy_warning() is None
    monkeypatch.setattr(os, "getloadavg", lambda: (99.5, 0, 0))
    assert busy_warning().startswith("other processes keep the machine busy (load 99.5 on ")


def test_versions_are_those_of_the_packages_that_were_used():
    names = package_versions(["torch", "no-such-package"], None)
    assert names["torch"] == torch.__version__
    assert "cuda" not in names
    assert "timm" not in names


def test_the_machine_is_described():
    described = machine(None)
    assert described["cores"] >= 1
    assert described["memory_bytes"] > 2**28
    assert described["gpu"] is None
    assert described["cpu"]


def test_public_weights_that_do_not_exist_are_refused(image):
    with pytest.raises(WeightsError, match="no public weights are called 'nonsense'"):
        MeasuredModel("nonsense", image, QUICK)
