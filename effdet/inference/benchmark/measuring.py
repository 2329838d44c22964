"""Measures one model in this process: the stages of one image, throughput and memory.

Several models, each in a process of its own, are measured in turns in `comparison.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from effdet.data.images import read_image
from effdet.devices import inference_dtype
from effdet.inference.benchmark.settings import Settings
from effdet.inference.predictor import Predictor
from effdet.postprocess import classify, postprocess, postprocess_boxes
from effdet.runtimes.exported import ExportedRuntime
from effdet.structures import Outputs
from effdet.training.debug.memory import peak_memory
from effdet.types import Task

# In the order in which they run; the last one is a call of the predictor with the path of the image file.
Stage = Literal["decoding", "resizing", "network", "postprocessing", "network_and_postprocessing", "end_to_end"]
STAGES: tuple[Stage, ...] = (
    "decoding",
    "resizing",
    "network",
    "postprocessing",
    "network_and_postprocessing",
    "end_to_end",
)
LEAST_RUNS = 2  # of a turn that is limited by time

NMS_INSIDE = "NMS is inside the file"
ONE_GRAPH = "they are one CUDA graph"

# What runs a file, and the package whose version is reported, by the suffix of the file.
RUNTIMES = {
    ".onnx": ("ONNX Runtime", "onnxruntime"),
    ".xml": ("OpenVINO", "openvino"),
    ".tflite": ("LiteRT", "ai-edge-litert"),
    ".pt2": ("torch.export program", "torch"),
}
PYTORCH = ("PyTorch", "torch")


@dataclass(frozen=True)
class Facts:
    """What is known about a model before it is measured.

    Attributes:
        task: of the model.
        runtime: what runs it, such as "ONNX Runtime".
        package: the package of the runtime.
        precision: of weights and arithmetic.
        device: where it runs.
        threads: CPU threads of the runtime.
        image_size: (H, W) of the input in pixels.
        fixed_batch: images per call that an exported file is fixed to; None for any number.
        together: why network and post-processing cannot be measured apart; None if they can.
        detections: of the image, at the confidence threshold; None for classifiers.
        load_seconds: from the file to a model that is ready to run, the import of its runtime included.
        first_seconds: of the first image.
    """

    task: Task
    runtime: str
    package: str
    precision: str
    device: str
    threads: int
    image_size: tuple[int, int]
    fixed_batch: int | None
    together: str | None
    detections: int | None
    load_seconds: float
    first_seconds: float


class MeasuredModel:
    """A model that is ready to be measured.

    Attributes:
        facts: what is known about it.
    """

    def __init__(self, weights: str, image: Path, settings: Settings) -> None:
        """Opens a model and runs it on the image for the first time, and then `settings.warmup` times.

        Raises:
            EffdetError: the model cannot be opened, or gives neither detections nor classes.
        """
        self._memory = peak_memory(torch.device("cpu"))
        start = time.perf_counter()
        self._predictor = Predictor(
            weights,
            settings.device,
            score_threshold="auto" if settings.score_threshold is None else settings.score_threshold,
            batch_size=settings.batch_size,
            precision="auto" if Path(weights).suffix.lower() in RUNTIMES else settings.precision,
            threads=settings.threads or torch.get_num_threads(),
        )
        loaded = time.perf_counter()
        self._image, self._batch_size = image, settings.batch_size
        self._steps: Any = self._predictor._steps
        self._runtime: Any = self._predictor._runtime
        result = self._predictor(image)
        first = time.perf_counter()
        self.facts = self._describe(weights, settings, len(result), loaded - start, first - loaded)
        for _ in range(settings.warmup):
            self._run()
        self._predictor([image] * LEAST_RUNS * settings.batch_size)  # the second batch of a size is captured on CUDA

    def _describe(
        self, weights: str, settings: Settings, detections: int, load_seconds: float, first_seconds: float
    ) -> Facts:
        runtime, predictor = self._runtime, self._predictor
        export = runtime.export if isinstance(runtime, ExportedRuntime) else None
        precision = str(inference_dtype(settings.precision, runtime.device)).removeprefix("torch.")
        name, package = RUNTIMES.get(Path(weights).suffix.lower(), PYTORCH) if export else PYTORCH
        return Facts(
            task=predictor.task,
            runtime=name,
            package=package,
            precision=export.precision if export else precision,
            device=str(runtime.device),
            threads=settings.threads or torch.get_num_threads(),
            image_size=runtime.image_size,
            fixed_batch=export.batch_size if export else None,
            together=self._reason_together(),
            detections=detections if predictor.task == "detection" else None,
            load_seconds=load_seconds,
            first_seconds=first_seconds,
        )

    def _reason_together(self) -> str | None:
        """Why network and post-processing cannot be measured apart; None if they can."""
        if self._predictor.task == "classification":
            return None
        if not isinstance(self._runtime, ExportedRuntime):
            return ONE_GRAPH if self._runtime.device.type == "cuda" else None
        images = self._input(read_image(self._image, self._predictor.value_range))
        return None if "class_logits" in self._runtime.outputs(images) else NMS_INSIDE

    def latency(self, runs: int | None, seconds: float) -> dict[Stage, list[float]]:
        """Seconds of each stage for one image at a time, one entry per run; a run before them is not counted.

        Args:
            runs: number of runs; None for as many as fit into `seconds`.
            seconds: time for all runs.
        """
        samples: dict[Stage, list[float]] = {}
        self._run()
        start, done = time.perf_counter(), 0
        while done < (runs or LEAST_RUNS) or (runs is None and time.perf_counter() - start < seconds):
            for stage, duration in self._run().items():
                samples.setdefault(stage, []).append(duration)
            done += 1
        return samples

    def throughput(self, runs: int | None, seconds: float) -> float:
        """Images per second of a stream of image files, read by another thread while the model runs.

        Args:
            runs: number of images, rounded up to at least two whole batches; None for as many as fit into `seconds`.
            seconds: time for all images.
        """
        size = self._batch_size
        batches = None if runs is None else max(LEAST_RUNS, -(-runs // size))
        start = time.perf_counter()

        def paths() -> Iterator[Path]:
            done = 0
            while done < (batches or LEAST_RUNS) or (batches is None and time.perf_counter() - start < seconds):
                yield from [self._image] * size
                done += 1

        images = sum(1 for _ in self._predictor.stream(paths()))
        return images / (time.perf_counter() - start)

    def memory(self) -> tuple[int, int | None]:
        """Growth of the peak memory of the process since it opened the model, and on CUDA PyTorch's peak; bytes."""
        device = self._runtime.device
        growth = peak_memory(torch.device("cpu")) - self._memory
        return growth, (peak_memory(device) or None) if device.type == "cuda" else None

    def _run(self) -> dict[Stage, float]:
        """Seconds of the stages of one image, each after the other, and then of the predictor's call."""
        clock = time.perf_counter
        times = [clock()]
        image = read_image(self._image, self._predictor.value_range)
        times.append(clock())
        images = self._input(image)
        times.append(clock())
        durations: dict[Stage, float] = {"decoding": times[1] - times[0], "resizing": times[2] - times[1]}
        if self.facts.together is None:
            outputs = self._network(images)
            times.append(clock())
            self._postprocess(outputs)
            times.append(clock())
            durations["network"], durations["postprocessing"] = times[3] - times[2], times[4] - times[3]
        else:
            self._runtime.detections(images, self._steps.options)
            times.append(clock())
        durations["network_and_postprocessing"] = times[-1] - times[2]
        start = clock()
        self._predictor(self._image)
        durations["end_to_end"] = clock() - start
        return durations

    def _input(self, image: Any) -> Tensor:
        """The network input [1, 3, H, W] of an image."""
        pixels, _ = self._steps.resize(image)
        return torch.from_numpy(pixels[None]).permute(0, 3, 1, 2)

    def _network(self, images: Tensor) -> Outputs | Tensor | dict[str, Tensor]:
        """Raw outputs of a detector or logits of a classifier, once they are computed."""
        if self._predictor.task == "classification":
            logits: Tensor = self._runtime.logits(images)
            return logits
        outputs: Outputs | dict[str, Tensor] = self._runtime.outputs(images)
        if self._runtime.device.type == "mps":
            torch.mps.synchronize()
        return outputs

    def _postprocess(self, outputs: Outputs | Tensor | dict[str, Tensor]) -> None:
        """What follows the network; results are in host memory afterwards."""
        if isinstance(outputs, Tensor):
            classify(outputs, self._steps.top)
        elif isinstance(outputs, Outputs):
            postprocess(outputs, self._steps.options)
        else:
            postprocess_boxes(outputs["class_logits"], outputs["boxes"], self._steps.options)
