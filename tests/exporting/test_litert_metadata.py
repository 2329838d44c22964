import io
import struct
import zipfile

import numpy as np
import pytest

flatbuffers = pytest.importorskip(
    "flatbuffers", reason="flatbuffers, which comes with ai-edge-litert, is not installed"
)

from effdet.exporting.litert_faces import normalized_anchors  # noqa: E402
from effdet.exporting.litert_metadata import LABELS_FILE, detector_metadata, with_labels  # noqa: E402
from effdet.models.anchors import anchor_boxes  # noqa: E402

SIZE = (64, 96)
ANCHORS = anchor_boxes(SIZE).numpy()


class Table:
    """A table of a flatbuffer, read by the numbers of its fields, with the reader of the flatbuffers package."""

    def __init__(self, content, position):
        self.table = flatbuffers.table.Table(content, position)

    @classmethod
    def root(cls, content):
        return cls(content, struct.unpack_from("<I", content, 0)[0])

    def _at(self, number):
        return self.table.Offset(4 + 2 * number)

    def value(self, number, flags):
        return self.table.Get(flags, self.table.Pos + self._at(number))

    def text(self, number):
        return self.table.String(self._at(number) + self.table.Pos).decode()

    def child(self, number):
        return Table(self.table.Bytes, self.table.Indirect(self._at(number) + self.table.Pos))

    def children(self, number):
        start = self.table.Vector(self._at(number))
        count = self.table.VectorLen(self._at(number))
        return [Table(self.table.Bytes, self.table.Indirect(start + 4 * index)) for index in range(count)]

    def array(self, number, dtype):
        start, count = self.table.Vector(self._at(number)), self.table.VectorLen(self._at(number))
        return np.frombuffer(self.table.Bytes, dtype, count, start)


FLOAT, INT, BYTE, BOOL = (
    getattr(flatbuffers.number_types, f"{name}Flags") for name in ("Float32", "Int32", "Uint8", "Bool")
)


@pytest.fixture(scope="module")
def metadata():
    content = detector_metadata(normalized_anchors(ANCHORS, SIZE), 3, 0.25, "efficientdet_lite0", 0.0, 1.0)
    assert content[4:8] == b"M001"
    return Table.root(content)


@pytest.fixture(scope="module")
def subgraph(metadata):
    (subgraph,) = metadata.children(3)
    return subgraph


def test_metadata_names_the_model_and_the_version_that_reads_it(metadata):
    assert (metadata.text(0), metadata.text(7)) == ("efficientdet_lite0", "1.5.0")


def test_the_input_is_an_rgb_image_without_normalization(subgraph):
    (image,) = subgraph.children(2)
    content = image.child(3)
    assert (image.text(0), content.value(0, BYTE), content.child(1).value(0, BYTE)) == ("image", 2, 1)
    (unit,) = image.children(4)
    assert unit.value(0, BYTE) == 1
    assert [unit.child(1).array(number, np.float32).tolist() for number in (0, 1)] == [[0.0], [1.0]]


def test_the_outputs_are_boxes_and_scores_with_labels(subgraph):
    location, score = subgraph.children(3)
    assert (location.text(0), score.text(0)) == ("location", "score")
    box = location.child(3)
    assert (box.value(0, BYTE), box.child(1).value(1, BYTE)) == (3, 1)
    assert box.child(1).array(0, np.uint32).tolist() == [1, 0, 3, 2]
    (labels,) = score.children(6)
    assert (labels.text(0), labels.value(2, BYTE)) == (LABELS_FILE, 2)
    (unit,) = score.children(4)
    assert (unit.value(0, BYTE), unit.child(1).value(0, FLOAT)) == (3, 0.25)


def test_detector_options_hold_the_anchors_and_how_boxes_are_decoded(subgraph):
    (custom,) = subgraph.children(9)
    assert custom.text(0) == "DETECTOR_METADATA"
    options = Table.root(custom.array(1, np.uint8).tobytes())
    rows = options.child(1).child(0).children(0)
    centres = [[row.value(number, FLOAT) for number in range(4)] for row in rows]  # x, y, width, height
    x, y, width, height = (np.array(centres) * [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).T
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
    assert np.allclose(corners, ANCHORS, atol=1e-3)
    decoding = options.child(2)
    assert [decoding.value(number, INT) for number in (0, 1, 2)] == [3, len(ANCHORS), 4]
    assert [decoding.value(number, FLOAT) for number in (6, 7, 8, 9)] == [1.0] * 4
    assert decoding.value(10, BOOL)
    assert decoding.value(11, BOOL)


def test_labels_stand_behind_the_model_one_a_line():
    content = with_labels(b"model", ["red cell", "white\ncell", "größe"])
    assert content.startswith(b"model")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read(LABELS_FILE).decode().split("\n") == ["red cell", "white cell", "größe"]
