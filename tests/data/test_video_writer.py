import os
import sys

import av
import cv2
import numpy as np
import pytest

from effdet.data.video import read_video
from effdet.data.video_writer import VideoWriter
from effdet.errors import DataError

IMAGE = np.full((48, 64, 3), (200, 100, 0), np.uint8)
RATES = [24, 25, 30, 30000 / 1001, 60, 1000 / 33]


def write(path, times, images=None, source=None):
    with VideoWriter(path, source) as writer:
        for index, time in enumerate(times):
            writer.write(IMAGE if images is None else images[index], time)
    return writer


def streams_of(path):
    with av.open(str(path)) as container:
        return {
            stream.type: (stream.codec_context.name, float(stream.duration * stream.time_base))
            for stream in container.streams
        }


def sound_of(path):
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[0])
        return [(bytes(packet), float(packet.pts * packet.time_base)) for packet in packets if packet.size]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("rate", RATES)
def test_a_video_keeps_time_stamps_and_colors(tmp_path, rate):
    times = [index / rate for index in range(30)]
    write(tmp_path / "a.mp4", times)
    frames = list(read_video(tmp_path / "a.mp4"))
    assert [time for time, _ in frames] == pytest.approx(times, abs=2e-5)
    assert frames[5][1].shape == IMAGE.shape
    assert frames[5][1].mean((0, 1)) == pytest.approx((200, 100, 0), abs=4)
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 30


def test_uneven_time_stamps_are_kept(tmp_path):
    times = [0.0, 0.02, 1.0, 3.0, 3.001, 7.25]
    write(tmp_path / "a.mp4", times)
    assert [time for time, _ in read_video(tmp_path / "a.mp4")] == pytest.approx(times, abs=2e-5)


def test_browsers_play_the_video_while_they_load_it(tmp_path):
    write(tmp_path / "a.mp4", [index / 25 for index in range(50)])
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_odd_sides_are_made_even_by_repeating_the_last_pixels(tmp_path):
    image = np.zeros((33, 41, 3), np.uint8)
    image[-1], image[:, -1] = 250, 250
    write(tmp_path / "a.mp4", [0.0, 0.1], [image, image])
    _, frame = next(read_video(tmp_path / "a.mp4"))
    assert frame.shape == (34, 42, 3)
    assert frame[-2:].mean() > 230
    assert frame[:, -2:].mean() > 230


def test_pictures_of_another_size_are_resized_to_the_first(tmp_path):
    write(tmp_path / "a.mp4", [0.0, 0.1, 0.2], [IMAGE, IMAGE[:24], IMAGE[:, :32]])
    assert [image.shape for _, image in read_video(tmp_path / "a.mp4")] == [(48, 64, 3)] * 3


def test_a_single_picture_is_a_video(tmp_path):
    write(tmp_path / "a.mp4", [0.0])
    assert len(list(read_video(tmp_path / "a.mp4"))) == 1
    assert streams_of(tmp_path / "a.mp4")["video"][1] > 0.01


def test_a_video_without_pictures_is_no_file(tmp_path):
    write(tmp_path / "a.mp4", [])
    assert names_in(tmp_path) == []


def test_the_file_appears_when_it_is_complete(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for index in range(200):  # the encoder looks ahead
            writer.write(IMAGE, index / 25)
        assert "a.mp4" not in names_in(tmp_path)
        assert len(names_in(tmp_path)) == 1
    assert names_in(tmp_path) == ["a.mp4"]


def test_a_path_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"a\.mp4: the video cannot be written \(File exists\); check"):
        write(tmp_path / "file" / "a.mp4", [0.0])
    (tmp_path / "file").unlink()
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(DataError, match=r"b\.mp4: the video cannot be written"):
        write(tmp_path / "b.mp4", [0.0])
    assert names_in(tmp_path) == ["b.mp4"]


# Sound


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [
        ("s.mp4", "libx264", "aac"),
        ("s.webm", "libvpx", "libopus"),
        ("s.mkv", "libx264", "flac"),
        ("s.ts", "mpeg4", "aac"),
    ],
)
def test_sound_is_copied_without_encoding_it_again(draw_video, tmp_path, name, codec, sound):
    source = draw_video(tmp_path / name, [index / 25 for index in range(75)], codec=codec, sound=sound)
    frames = list(read_video(source))
    writer = write(tmp_path / "a.mp4", [time for time, _ in frames], [image for _, image in frames], source)
    assert writer.notes == []
    expected, copied = sound_of(source), sound_of(tmp_path / "a.mp4")
    assert len(expected) - len(copied) <= 3  # what lies behind the last picture
    with av.open(str(source)) as container:
        start = container.start_time / 1e6
    for (data, time), (other, other_time) in zip(expected, copied, strict=False):
        assert other == data[-len(other) :]  # without the header that each packet of a transport stream has
        assert other_time == pytest.approx(time - start, abs=2e-3)
    assert streams_of(tmp_path / "a.mp4")["audio"][1] == pytest.approx(3, abs=0.1)


def test_sound_ends_with_the_pictures(draw_video, tmp_path):
    source = draw_video(tmp_path / "s.mp4", [0.0, 0.5, 1.0], sound="aac")
    write(tmp_path / "a.mp4", [0.0, 0.5, 1.0], source=source)
    assert streams_of(tmp_path / "a.mp4")["audio"][1] == pytest.approx(1.5, abs=0.1)


def test_sound_that_an_mp4_cannot_hold_is_left_out_with_a_note(draw_video, tmp_path):
    source = draw_video(tmp_path / "s.avi", range(25), codec="mjpeg", sound="pcm_s16le", tick=None)
    writer = write(tmp_path / "a.mp4", [0.0, 0.1], source=source)
    assert set(streams_of(tmp_path / "a.mp4")) == {"video"}
    path = tmp_path / "a.mp4"
    assert writer.notes == [f"{path}: without sound, because an MP4 cannot hold sound of the codec pcm_s16le"]


def test_a_source_without_sound_is_nothing_to_note(draw_video, tmp_path):
    source = draw_video(tmp_path / "s.mp4", [0.0, 0.1])
    assert write(tmp_path / "a.mp4", [0.0, 0.1], source=source).notes == []


def test_without_an_encoder_for_h264_the_video_is_mpeg4_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4", "aac"})
    writer = write(tmp_path / "a.mp4", [index / 30 for index in range(10)])
    assert streams_of(tmp_path / "a.mp4")["video"][0] == "mpeg4"
    assert len(writer.notes) == 1
    assert "no H.264 encoder; install av from PyPI" in writer.notes[0]
    assert len(list(read_video(tmp_path / "a.mp4"))) == 10


# Disks that are full


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
@pytest.mark.parametrize("missing", [1, 100, 5_000, 50_000, 10**9])
def test_a_video_that_does_not_fit_is_an_error_and_nothing_is_left(tmp_path, missing):
    import resource

    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(30)]
    times = [index / 25 for index in range(30)]
    write(tmp_path / "a.mp4", times, images)
    size = (tmp_path / "a.mp4").stat().st_size
    (tmp_path / "a.mp4").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(10, size - missing), before[1]))
    try:
        with pytest.raises(
            DataError, match=r"a\.mp4: the video cannot be written \(.+\); check the folder and the free"
        ):
            write(tmp_path / "a.mp4", times, images)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names_in(tmp_path) == []


def test_a_video_that_is_not_what_was_written_is_an_error(tmp_path, monkeypatch):
    """As on a disk that loses data without an error."""
    from effdet.data import video_writer

    holds = video_writer._holds_packets
    monkeypatch.setattr(
        video_writer, "_holds_packets", lambda path, number: os.truncate(path, 900) or holds(path, number)
    )
    with pytest.raises(DataError, match=r"a\.mp4: the video cannot be written \(the disk is full, or a limit"):
        write(tmp_path / "a.mp4", [index / 25 for index in range(10)])
    assert names_in(tmp_path) == []


def test_an_older_video_stays_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_text("older")
    monkeypatch.setattr("effdet.data.video_writer._holds_packets", lambda path, number: False)
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "a.mp4", [0.0, 0.1])
    assert (tmp_path / "a.mp4").read_text() == "older"
    assert names_in(tmp_path) == ["a.mp4"]
