"""Borders of exported files: damaged files, metadata that lie about the graph, and graphs that give nonsense.

The graphs give constants, so that files are small and quick to make. Checkpoints are in `borders_weights.py`.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .border import Border, damages
from .borders_settings import check_card_is_sound, plain_card
from .mutate import mutate_bytes, mutate_text, mutate_tree

SIZE = (64, 64)  # of the card's model
TOKENS = (b"effdet", b'{"format": 1', b"version", b"<net ", b"<rt_info>", b"&#0;", b"PK\3\4", b"TFL3", b"\xff" * 9)
LARGEST = 512  # pixels of a side with which a graph is run


def _export(face: str) -> dict[str, Any]:
    """What a file says about itself, as a tree."""
    options = plain_card()["postprocess"] if face == "detections" else None
    plain = {"format": 1, "model": plain_card(), "face": face, "precision": "float32", "batch_size": 1}
    return {**plain, "postprocess": options, "source": "best.pt", "versions": {}, "certificate": {}}


def _arrays(face: str) -> dict[str, np.ndarray]:
    """The outputs of a sound file."""
    boxes = np.array([[[0, 0, 30, 30], [10, 10, 60, 50], [5, 5, 9, 9]]], np.float32)
    if face == "raw":
        return {"class_logits": np.array([[[2, -3], [-1, 0.5], [-5, -5]]], np.float32), "boxes": boxes}
    return {
        "boxes": boxes,
        "scores": np.array([[0.9, 0.6, 0]], np.float32),
        "labels": np.array([[1, 0, 0]], np.int64),
        "counts": np.array([2], np.int64),
    }


def _mutate_arrays(rng: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of which one has nonsense in it, another shape or type, or is missing."""
    name = rng.choice(list(arrays))
    array = arrays[name].copy()
    kind = rng.randrange(7)
    if kind < 3 and array.size:
        extremes = (np.nan, np.inf, -np.inf, 1e38, -1.0) if array.dtype == np.float32 else (-1, 2, 99, 127)
        array.flat[rng.randrange(array.size)] = rng.choice(extremes)
    elif kind <= 3:
        array = array.astype(rng.choice((np.float64, np.int32, np.float32, np.uint8, np.float16)))
    elif kind == 4:
        array = rng.choice((array[..., :1], array[:0], np.concatenate([array, array]), array[0], array[None]))
    else:
        others = {key: value for key, value in arrays.items() if key != name}
        return others if kind == 5 and others else {**others, f"{name}s": array}
    return {**arrays, name: array}


def _onnx_bytes(arrays: dict[str, np.ndarray], text: str, height: int, width: int) -> bytes:
    """An ONNX file with these outputs for any image."""
    import onnx
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.ascontiguousarray(array), name))
        for name, array in arrays.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, (1, height, width, 3))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    entry = model.metadata_props.add()
    entry.key = "effdet"
    data = model.SerializeToString()
    try:
        entry.value = text
    except (UnicodeEncodeError, ValueError):  # half of a character, which such a file cannot hold
        return data
    return model.SerializeToString()


def _damaged_parts(rng: random.Random, face: str, count: int) -> tuple[dict[str, np.ndarray], str, int]:
    """Outputs and metadata, damaged some of the times, and how often to damage the bytes of the file then."""
    arrays, export, left = _arrays(face), _export(face), 0
    text = None
    for _ in range(count):
        kind = rng.randrange(4)
        if kind == 0:
            left += 1
        elif kind == 1:
            arrays = _mutate_arrays(rng, arrays)
        elif kind == 2:
            export = mutate_tree(rng, export)
        elif rng.random() < 0.3:
            text = mutate_text(rng, text or json.dumps(export))
        elif isinstance(export, dict) and "model" in export:
            export = {**export, "model": mutate_tree(rng, export["model"])}
    return arrays, text or json.dumps(export), left


def _make_onnx(rng: random.Random, folder: Path) -> Path:
    arrays, text, left = _damaged_parts(rng, rng.choice(("raw", "detections")), damages(rng, folder))
    data = _onnx_bytes(arrays, text, *SIZE)
    for _ in range(left):
        data = mutate_bytes(rng, data, TOKENS)
    (folder / "model.onnx").write_bytes(data)
    return folder / "model.onnx"


@functools.cache
def _openvino_bytes(face: str) -> tuple[bytes, bytes]:
    """The .xml and the .bin of a sound file of OpenVINO."""
    import tempfile

    from effdet.exporting.openvino_file import convert_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(_onnx_bytes(_arrays(face), json.dumps(_export(face)), *SIZE))
        convert_onnx(path, {"effdet": json.dumps(_export(face))}, path.with_suffix(".xml"))
        return path.with_suffix(".xml").read_bytes(), path.with_suffix(".bin").read_bytes()


def _make_openvino(rng: random.Random, folder: Path) -> Path:
    xml, weights = _openvino_bytes(rng.choice(("raw", "detections")))
    for _ in range(damages(rng, folder)):
        kind = rng.randrange(3)
        if kind == 0:
            xml = mutate_bytes(rng, xml, TOKENS)
        elif kind == 1:
            xml = mutate_text(rng, xml.decode("utf-8", "replace")).encode("utf-8", "replace")
        else:
            weights = mutate_bytes(rng, weights)
    (folder / "model.xml").write_bytes(xml)
    (folder / "model.bin").write_bytes(weights)
    return folder / "model.xml"


@functools.cache
def _program_bytes() -> bytes:
    """A program of torch.export that gives constants."""
    import torch

    class Constants(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            zero = images.float().sum() * 0
            return {name: torch.from_numpy(array) + zero for name, array in _arrays("raw").items()}

    program = torch.export.export(Constants(), (torch.zeros((1, *SIZE, 3), dtype=torch.uint8),))
    written = io.BytesIO()
    torch.export.save(program, written, extra_files={"effdet.json": json.dumps(_export("raw"))})
    return written.getvalue()


def _make_program(rng: random.Random, folder: Path) -> Path:
    count = damages(rng, folder)
    _, text, left = _damaged_parts(rng, "raw", count)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_program_bytes())) as old, zipfile.ZipFile(written, "w") as new:
        for entry in old.infolist():
            is_card = entry.filename.endswith("effdet.json")
            data = text.encode("utf-8", "surrogatepass") if is_card and count else old.read(entry)
            if left and rng.random() < 0.1:
                data = mutate_bytes(rng, data, TOKENS)
            new.writestr(zipfile.ZipInfo(entry.filename), data)
    data = written.getvalue()
    if left and rng.random() < 0.5:
        data = mutate_bytes(rng, data, TOKENS)
    (folder / "model.pt2").write_bytes(data)
    return folder / "model.pt2"


def _make_litert(rng: random.Random, folder: Path) -> Path:
    """The metadata of a .tflite file without a graph: a model, its buffers and its metadata, as flatbuffers."""
    import flatbuffers

    _, text, _ = _damaged_parts(rng, "raw", count := damages(rng, folder))
    builder = flatbuffers.Builder(0)
    content = builder.CreateByteVector(text.encode("utf-8", "surrogatepass"))
    name = builder.CreateString("effdet")
    builder.StartObject(3)
    builder.PrependUOffsetTRelativeSlot(0, content, 0)
    buffer = builder.EndObject()
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint32Slot(1, 0, 1)
    entry = builder.EndObject()
    vectors = []
    for item in (buffer, entry):
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(item)
        vectors.append(builder.EndVector())
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(4, vectors[0], 0)
    builder.PrependUOffsetTRelativeSlot(6, vectors[1], 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    data = bytes(builder.Output())
    for _ in range(count if rng.random() < 0.5 else 0):
        data = mutate_bytes(rng, data, TOKENS)
    (folder / "model.tflite").write_bytes(data)
    return folder / "model.tflite"


def _read_card(path: Path) -> None:
    from effdet.runtimes.opening import open_model

    check_card_is_sound(open_model(path).card)


def _read_and_run(path: Path) -> None:
    import torch

    from effdet.runtimes.opening import open_model
    from effdet.types import PostprocessOptions

    model = open_model(path)
    check_card_is_sound(model.card)
    height, width = model.card.spec.image_size
    if max(height, width) > LARGEST or model.card.task == "classification":
        return
    runtime = model.start(torch.device("cpu"), "auto")
    images = torch.zeros((1, model.card.spec.in_channels, height, width), dtype=torch.uint8)
    options = PostprocessOptions(**model.card.postprocess)
    (found,) = runtime.detections(images, options)
    assert found.boxes.isfinite().all(), "a box is NaN or Inf"
    assert found.scores.isfinite().all(), "a score is NaN or Inf"
    assert ((found.labels >= 0) & (found.labels < len(model.card.class_names))).all(), "a label of no class"
    assert len(found.boxes) == len(found.scores) == len(found.labels) <= options.max_detections


_ALL = (
    (Border("onnx", _make_onnx, _read_and_run), ("onnx", "onnxruntime")),
    (Border("openvino", _make_openvino, _read_and_run), ("onnx", "openvino")),
    (Border("litert", _make_litert, _read_card), ("flatbuffers",)),
    (Border("program", _make_program, _read_and_run, heavy=True), ()),
)
BORDERS = tuple(border for border, needed in _ALL if all(map(importlib.util.find_spec, needed)))
