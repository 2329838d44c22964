"""Fixtures shared by all tests: real data sets, where there are any, and recorded outputs of the reference systems."""

import gzip
import json
import os
import zlib
from fractions import Fraction
from pathlib import Path

# Networks here are tiny: threads would only wait for each other, and for a long time where other programs run.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def _shared(name: str) -> Path:
    folder = Path(os.environ.get("EFFDET_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"no data set in {folder}; EFFDET_TEST_DATA names the folder of the data sets")
    return folder


@pytest.fixture
def shared_data():
    """Function that gives the folder of a data set by its name."""
    return _shared


@pytest.fixture
def bccd() -> Path:
    """A small Pascal VOC data set: 364 images, 3 classes, 2 boxes without area."""
    return _shared("bccd")


@pytest.fixture
def coco128() -> Path:
    """The first images of COCO train2017: images/ and instances.json."""
    return _shared("coco128")


class Reference:
    """Outputs of other systems, recorded once; weights and images are made anew from names, shapes and sizes.

    `arrays` maps a key to its array, `shapes` maps SYSTEM/MODEL to {name: shape} of its state dict.
    """

    def __init__(self, folder: Path) -> None:
        self.arrays = np.load(folder / "golden.npz")
        self.shapes = json.loads(gzip.decompress((folder / "shapes.json.gz").read_bytes()))

    def state(self, model):
        """The state dict of SYSTEM/MODEL with which its outputs were recorded."""
        return {name: self._tensor(name, shape) for name, shape in self.shapes[model].items()}

    def _tensor(self, name, shape):
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        if name.endswith("num_batches_tracked"):
            return torch.zeros(shape, dtype=torch.int64)
        if len(shape) > 1:
            values = rng.uniform(-1.0, 1.0, shape) * np.sqrt(1.2 * 3.0 / np.prod(shape[1:]))
        else:
            ranges = {
                "running_var": (0.5, 1.5),
                "running_mean": (-0.1, 0.1),
                "edge_weights": (0.2, 1.5),
                "weight": (0.8, 1.2),
            }
            last = name.split(".")[-1]
            values = rng.uniform(*ranges.get(last, (-0.2, 0.2)), shape)
        return torch.from_numpy(np.asarray(values).astype(np.float32))

    def image(self, height, width):
        """The input [1, 3, H, W] with which the outputs were recorded, already normalised."""
        rng = np.random.Generator(np.random.PCG64(0))
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        out = np.zeros((1, 3, height, width))
        for channel in range(3):
            for _ in range(6):
                down, across = rng.uniform(-6, 6, 2)
                phase, amplitude = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8)
                wave = 2 * np.pi * (down * y / height + across * x / width) + phase
                out[0, channel] += amplitude * np.sin(wave)
        return torch.from_numpy(out.astype(np.float32))


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The small set of recorded outputs that lies beside the tests."""
    return Reference(REPOSITORY / "tests" / "golden")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Folder of the full set of recorded outputs."""
    folder = Path(os.environ.get("EFFDET_TEST_GOLDEN", REPOSITORY.parent / "shared" / "golden"))
    if not (folder / "golden.npz").is_file():
        pytest.skip(f"no golden.npz in {folder}; EFFDET_TEST_GOLDEN names the folder of the recorded outputs")
    return folder


@pytest.fixture(scope="session")
def full_reference(golden_folder) -> Reference:
    """The full set of recorded outputs: every model."""
    return Reference(golden_folder)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A COCO data set of 12 scenes to train on and 4 to evaluate, 128 x 128 pixels."""
    from effdet.data.synthetic import write_data_set

    root = tmp_path_factory.mktemp("tiny") / "data"
    write_data_set(root, 12, 4, size=(128, 128))
    return root


@pytest.fixture(scope="session")
def tiny_recipe(tiny_data) -> Path:
    """A recipe that trains on it in seconds: two epochs of three steps."""
    path = tiny_data.parent / "tiny.yaml"
    path.write_text(
        f"""
model: {{name: efficientdet_lite0, image_size: [64, 64], depth: 0.2}}
data: {{root: {tiny_data}, workers: 0}}
train: {{epochs: 2, batch_size: 4, precision: fp32, log_every: 1}}
"""
    )
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe) -> Path:
    """The folder of a finished run of that recipe."""
    from effdet.cli import main

    folder = tiny_recipe.parent / "run"
    assert main(["train", str(tiny_recipe), f"output_dir={folder}", "--device", "cpu"]) == 0
    return folder


SHAPES = ("disc", "frame", "stripes")


def _shape_picture(name: str, rng: np.random.Generator) -> np.ndarray:
    """A picture of a class of `SHAPES`, uint8 RGB [96, 96, 3]: place, size, ground and colour vary a little."""
    ground = rng.integers(60, 110, 3)
    picture = np.clip(rng.normal(ground, 12, (96, 96, 3)), 0, 255).astype(np.uint8)
    y, x = np.mgrid[0:96, 0:96]
    (top, left), radius = rng.integers(42, 54, 2), rng.integers(22, 34)
    distance = np.maximum(abs(y - top), abs(x - left))
    mask = {
        "disc": np.hypot(y - top, x - left) < radius,
        "frame": (distance < radius) & (distance > radius - 8),
        "stripes": (distance < radius) & ((x - left) // 6 % 2 == 0),
    }[name]
    colour = {"disc": (220, 60, 40), "frame": (40, 200, 60), "stripes": (50, 70, 230)}[name]
    picture[mask] = np.clip(np.array(colour) + rng.integers(-20, 21, 3), 0, 255)
    return picture


@pytest.fixture(scope="session")
def shapes_data(tmp_path_factory) -> Path:
    """Labelled images, 96 x 96 pixels: of 3 classes 6 each to train on and 3 to evaluate, in folders and as lists."""
    from effdet.report.pictures import write_image

    root = tmp_path_factory.mktemp("shapes") / "data"
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        lines = ["image,label"]
        for name in SHAPES:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                file = f"{part}/{name}/{number}.png"
                write_image(root / file, _shape_picture(name, rng))
                lines.append(f"{file},{name}")
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def shapes_recipe(shapes_data) -> Path:
    """A recipe that trains a classifier on them in seconds: two epochs of three steps."""
    path = shapes_data.parent / "shapes.yaml"
    path.write_text(
        f"""
task: classification
model: {{name: efficientnet_lite0, image_size: [64, 64], depth: 0.2}}
data: {{root: {shapes_data}, workers: 0}}
optim: {{learning_rate: 0.02, base_batch_size: null}}
train: {{epochs: 2, batch_size: 6, precision: fp32, log_every: 1}}
"""
    )
    return path


@pytest.fixture(scope="session")
def shapes_run(shapes_recipe) -> Path:
    """The folder of a finished run of that recipe."""
    from effdet.cli import main

    folder = shapes_recipe.parent / "run"
    assert main(["train", str(shapes_recipe), f"output_dir={folder}", "--device", "cpu"]) == 0
    return folder


@pytest.fixture(scope="session")
def draw_video():
    """A function that writes a video with PyAV: grey frames, each brighter than the one before, with a red bar."""
    import av

    def draw(path, times, *, size=(48, 64), codec="libx264", sound=None, tick=1000, container_options=None):
        """Frames at `times` (seconds) and, with an audio codec `sound`, three seconds of a tone."""
        with av.open(str(path), "w", options=container_options or {}) as container:
            video = container.add_stream(codec, rate=25)
            video.height, video.width = size
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if tick:
                video.time_base = video.codec_context.time_base = Fraction(1, tick)
            tone = container.add_stream(sound, rate=48000) if sound else None
            for index, time in enumerate(times):
                image = np.full((*size, 3), 16 + 2 * index % 200, np.uint8)
                image[: size[0] // 4, : size[1] // 4] = (220, 20, 20)  # top left
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if tick:
                    frame.pts, frame.time_base = round(time * tick), Fraction(1, tick)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if tone is not None:
                _encode_tone(container, tone)
        return path

    def _encode_tone(container, tone):
        for start in range(0, 3 * 48000, 1000):
            wave = (8000 * np.sin(np.arange(start, start + 1000) * 0.06)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(np.stack([wave, wave], 1).reshape(1, -1), format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            container.mux(tone.encode(frame))
        container.mux(tone.encode(None))

    return draw
