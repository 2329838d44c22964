import random

import av
import numpy as np
import pytest

from effdet.data.video import read_video
from effdet.data.video_cut import is_cut_off
from effdet.errors import DataError

FRAMES = 40
CONTAINERS = [
    *(("a.mp4", "libx264", None), ("a.mov", "mpeg4", None), ("a.3gp", "mpeg4", None)),
    ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    *(("a.avi", "mjpeg", None), ("a.mkv", "libx264", None), ("a.webm", "libvpx", None)),
    ("live.webm", "libvpx", {"live": "1"}),
    *(("a.ts", "libx264", None), ("b.ts", "mpeg2video", None), ("a.m2ts", "libx264", None)),
    *(("a.mpg", "mpeg2video", None), ("a.vob", "mpeg2video", None), ("a.mpeg", "mpeg1video", None)),
    *(("a.flv", "libx264", None), ("b.flv", "flv", None), ("a.wmv", "wmv2", None), ("a.asf", "mpeg4", None)),
    *(("a.mxf", "mpeg2video", None), ("a.ogv", "libvpx", None), ("a.m2v", "mpeg2video", None)),
]


@pytest.fixture(params=CONTAINERS, ids=lambda row: row[0])
def video(request, tmp_path):
    """A video of large frames in one of the containers."""
    name, codec, options = request.param
    path = tmp_path / name
    generator = np.random.default_rng(0)
    container_format = {"m2v": "mpeg2video", "ogv": "ogg", "mpeg": "mpeg"}.get(name.rpartition(".")[2])
    with av.open(str(path), "w", format=container_format, options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = 96, 128
        if codec == "libvpx":
            stream.options = {"deadline": "realtime", "cpu-used": "8"}
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for _ in range(FRAMES):
            small = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(small.repeat(8, 0).repeat(8, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damage_of(path):
    try:
        for _ in read_video(path):
            pass
    except DataError as error:
        return str(error)
    return ""


def test_whole_videos_of_every_container_are_whole_and_cut_ones_are_not(video):
    assert not is_cut_off(video)
    assert damage_of(video) == ""
    data, generator = video.read_bytes(), random.Random(0)
    for kept in (len(data) - 100, len(data) // 2, *(generator.randrange(len(data) // 10, len(data)) for _ in range(4))):
        while kept % 188 == 0 or kept % 192 == 0:  # between two packets of a transport stream, which nothing tells
            kept -= 7
        video.write_bytes(data[:kept])
        message = damage_of(video)
        assert message.startswith(f"{video}: ")
        assert message.endswith("; copy the file again")


@pytest.mark.parametrize("extra", [b"\0" * 5000, b"trailing bytes of another program " * 200])
def test_what_follows_a_whole_video_is_no_cut(video, extra):
    video.write_bytes(video.read_bytes() + extra)
    assert not is_cut_off(video)


@pytest.mark.parametrize(
    "start", [b"", b"RIFF", b"FLV", b"\0\0\1\xba", b"OggS", b"\x1aE\xdf\xa3", b"\0\0\0\1mdat", b"G" * 188]
)
def test_other_data_has_no_verdict_or_is_cut_and_ends(tmp_path, start):
    path, generator = tmp_path / "a", random.Random(1)
    for length in (0, 1, 5, 11, 30, 200, 5000):
        path.write_bytes(start + generator.randbytes(length))
        assert is_cut_off(path) in (True, False)
    path.write_bytes(start * 3000)
    assert is_cut_off(path) in (True, False)


def written(path, codec, container_format=None):
    """A video of small frames of noise."""
    generator = np.random.default_rng(0)
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(FRAMES):
            frame = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_an_flv_that_is_cut_between_two_tags_is_reported(tmp_path):
    path = written(tmp_path / "a.flv", "flv")
    data = path.read_bytes()
    position = 13
    while position < len(data) // 2:
        position += 15 + int.from_bytes(data[position + 1 : position + 4], "big")
    path.write_bytes(data[:position])
    assert is_cut_off(path)
    assert "the video is damaged: " in damage_of(path)


def test_a_wmv_that_is_cut_in_its_header_is_refused(tmp_path):
    path = written(tmp_path / "a.wmv", "wmv2")
    data = path.read_bytes()
    for kept in range(16, 200, 7):
        path.write_bytes(data[:kept])
        assert damage_of(path).startswith(f"{path}: ")


def test_packets_that_are_missing_inside_a_transport_stream_are_reported(tmp_path):
    path = written(tmp_path / "a.ts", "mpeg2video")
    data = path.read_bytes()
    middle = len(data) // 188 // 2 * 188
    path.write_bytes(data[:middle] + data[middle + 3 * 188 :])
    assert "damaged" in damage_of(path)


def test_frames_that_the_decoder_marks_are_counted(tmp_path):
    path = written(tmp_path / "a.mpg", "mpeg2video")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = random.Random(0).randbytes(200)
    path.write_bytes(data)
    message = damage_of(path)
    assert "the video is damaged: " in message
    assert " damaged; copy the file again" in message
