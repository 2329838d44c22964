"""The metadata of a .tflite file with which MediaPipe Tasks' ObjectDetector decodes the outputs of a detector itself.

It is a flatbuffer of the public schema "TFLite metadata" and a second one of MediaPipe's detector options, and the
labels in a ZIP archive behind the model. Our own metadata is `effdet.weights.exported.ExportCard`.

MediaPipe stretches images to the input, bilinear and without antialiasing. Only the best class of an anchor counts. Its
NMS is over all classes, and it cuts boxes to whole pixels.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "TFLITE_METADATA"  # of the block in the model
DETECTOR_NAME = "DETECTOR_METADATA"  # of the detector options inside the metadata
LABELS_FILE = "labels.txt"
_PARSER_VERSION = "1.5.0"  # the first version of the schema with custom metadata
_DETECTOR_PARSER_VERSION = "1.0.0"

# Numbers of the schema's enumerations.
_FEATURE, _IMAGE, _BOX = 1, 2, 3  # ContentProperties
_NORMALIZATION, _THRESHOLD = 1, 3  # ProcessUnitOptions
_RGB, _BOUNDARIES, _AXIS_LABELS = 1, 1, 2

Field = tuple[int, str, Any]  # number of the field in its table, kind of its value, value


def detector_metadata(
    anchors: NDArray[np.float32], num_classes: int, score_threshold: float, name: str, mean: float, std: float
) -> bytes:
    """The metadata of a detector with an image as input and the outputs location [1, A, 4] and score [1, A, K].

    Args:
        anchors: [A, 4] as (y, x, height, width), centres and sides divided by the sides of the image.
        num_classes: number K of classes.
        score_threshold: confidence below which results are dropped, unless the program asks for another.
        name: of the model.
        mean: of the normalization before the model, 0 if it is inside.
        std: the same, 1 if it is inside.
    """
    import flatbuffers

    builder: Any = flatbuffers.Builder(1 << 16)
    options = _detector_options(anchors, num_classes)
    normalization = _table(builder, (0, "offset", _floats(builder, [mean])), (1, "offset", _floats(builder, [std])))
    threshold = _table(builder, (0, "float", score_threshold))
    image = _table(builder, (0, "byte", _RGB))
    box = _table(builder, (0, "offset", _uints(builder, [1, 0, 3, 2])), (1, "byte", _BOUNDARIES))
    labels = _table(builder, (0, "offset", builder.CreateString(LABELS_FILE)), (2, "byte", _AXIS_LABELS))
    inputs = [
        _tensor(builder, "image", _content(builder, _IMAGE, image), _unit(builder, _NORMALIZATION, normalization))
    ]
    outputs = [
        _tensor(builder, "location", _content(builder, _BOX, box)),
        _tensor(
            builder,
            "score",
            _content(builder, _FEATURE, _table(builder)),
            _unit(builder, _THRESHOLD, threshold),
            _vector(builder, [labels]),
        ),
    ]
    custom = _table(
        builder,
        (0, "offset", builder.CreateString(DETECTOR_NAME)),
        (1, "offset", _aligned_bytes(builder, options)),
    )
    subgraph = _table(
        builder,
        (2, "offset", _vector(builder, inputs)),
        (3, "offset", _vector(builder, outputs)),
        (9, "offset", _vector(builder, [custom])),
    )
    root = _table(
        builder,
        (0, "offset", builder.CreateString(name)),
        (3, "offset", _vector(builder, [subgraph])),
        (7, "offset", builder.CreateString(_PARSER_VERSION)),
    )
    builder.Finish(root, b"M001")
    return bytes(builder.Output())


def with_labels(content: bytes, class_names: Sequence[str]) -> bytes:
    """The content of a .tflite file with the names of its classes behind it, one a line, in a ZIP archive."""
    file = io.BytesIO(content)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        entry = zipfile.ZipInfo(LABELS_FILE)  # with a fixed date, so that equal models are equal files
        archive.writestr(entry, "\n".join(" ".join(name.split()) for name in class_names))
    return file.getvalue()


def _detector_options(anchors: NDArray[np.float32], num_classes: int) -> bytes:
    """The flatbuffer of MediaPipe's `ObjectDetectorOptions`: anchors, and how boxes and scores are decoded."""
    import flatbuffers

    builder: Any = flatbuffers.Builder(1 << 20)
    rows = [
        _table(builder, (0, "float", x), (1, "float", y), (2, "float", width), (3, "float", height))
        for y, x, height, width in anchors.tolist()
    ]
    fixed = _table(builder, (0, "offset", _vector(builder, rows)))
    ssd = _table(builder, (0, "offset", fixed))
    coordinates = 4
    decoding = _table(
        builder,
        (0, "int", num_classes),
        (1, "int", len(anchors)),
        (2, "int", coordinates),
        (5, "int", 2),  # values per keypoint: there are none, but MediaPipe checks it
        *((number, "float", 1.0) for number in (6, 7, 8, 9)),  # x, y, w and h scale
        (10, "bool", True),  # sides are exponents
        (11, "bool", True),  # scores are logits
    )
    version = builder.CreateString(_DETECTOR_PARSER_VERSION)
    builder.Finish(_table(builder, (0, "offset", version), (1, "offset", ssd), (2, "offset", decoding)), b"V001")
    return bytes(builder.Output())


def _tensor(builder: Any, name: str, content: int, units: int | None = None, files: int | None = None) -> int:
    """A `TensorMetadata`."""
    fields: list[Field] = [(0, "offset", builder.CreateString(name)), (3, "offset", content)]
    if units is not None:
        fields.append((4, "offset", units))
    if files is not None:
        fields.append((6, "offset", files))
    return _table(builder, *fields)


def _content(builder: Any, kind: int, properties: int) -> int:
    return _table(builder, (0, "ubyte", kind), (1, "offset", properties))


def _unit(builder: Any, kind: int, options: int) -> int:
    """A vector of one `ProcessUnit`."""
    return _vector(builder, [_table(builder, (0, "ubyte", kind), (1, "offset", options))])


def _table(builder: Any, *fields: Field) -> int:
    """A table with some fields; the tables, vectors and strings that it points to must be written before it."""
    builder.StartObject(max((number for number, _, _ in fields), default=-1) + 1)
    for number, kind, value in fields:
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(number, value, 0)
        else:
            default = None  # written even where it is the default of the schema
            prepend = {
                "float": builder.PrependFloat32Slot,
                "int": builder.PrependInt32Slot,
                "byte": builder.PrependInt8Slot,
                "ubyte": builder.PrependUint8Slot,
                "bool": builder.PrependBoolSlot,
            }[kind]
            prepend(number, value, default)
    return int(builder.EndObject())


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: Any, values: Sequence[float]) -> int:
    return int(builder.CreateNumpyVector(np.asarray(values, np.float32)))


def _uints(builder: Any, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.asarray(values, np.uint32)))


def _aligned_bytes(builder: Any, data: bytes) -> int:
    """A vector of bytes that starts at a multiple of 16, as the schema asks for nested flatbuffers."""
    builder.StartVector(1, len(data), 16)
    builder.head = builder.head - len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    return int(builder.EndVector())
