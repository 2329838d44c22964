import gc
import os
import re
import struct
import wave
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from effdet.data import video
from effdet.data.video import check_video, open_video, read_video
from effdet.errors import DataError

QUARTER_SECONDS = [index / 4 for index in range(12)]
UNEVEN = [0.0, 0.04, 0.3, 0.31, 1.0, 1.9, 2.0, 3.1]


def times_in(path):
    return [time for time, _ in read_video(path)]


def read_until_damage(path):
    """The times of all frames, and the error after them."""
    times = []
    try:
        for time, _ in read_video(path):
            times.append(time)
    except DataError as error:
        return times, str(error)
    pytest.fail("no damage is reported")


def cut(path, fraction):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def transform(path, a, b, c, d):
    """Writes a display matrix into the header of an MP4, as telephones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def red_corner(image):
    """In which quarter of the picture the red bar is: (bottom, right)."""
    red = image[..., 0].astype(int) - image[..., 1]
    y, x = np.argwhere(red > 100).mean(0)
    return y > image.shape[0] / 2, x > image.shape[1] / 2


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mjpeg"), ("a.webm", "libvpx"), ("a.mov", "mpeg4")]
)
def test_frames_have_the_time_stamps_of_the_file(draw_video, tmp_path, name, codec):
    path = draw_video(tmp_path / name, UNEVEN, codec=codec)
    assert times_in(path) == pytest.approx(UNEVEN, abs=1e-6)


def test_a_recording_of_a_browser_has_its_real_length(draw_video, tmp_path):
    """Its header says 1000 frames per second, no duration and no number of frames."""
    times = [0.033 * index for index in range(90)]
    path = draw_video(tmp_path / "a.webm", times, codec="libvpx", container_options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
        assert not container.streams.video[0].frames
    assert check_video(path) is None
    assert times_in(path) == pytest.approx(times, abs=1e-3)


def test_the_number_of_frames_is_that_of_the_header(draw_video, tmp_path):
    assert check_video(draw_video(tmp_path / "a.mp4", QUARTER_SECONDS)) == 12
    assert check_video(draw_video(tmp_path / "a.avi", range(12), codec="mjpeg", tick=None)) == 12


def test_frames_without_time_stamps_follow_each_other_at_the_rate_of_the_header(draw_video, tmp_path):
    path = draw_video(tmp_path / "a.avi", range(30), codec="mjpeg", tick=None)
    assert times_in(path) == pytest.approx([index / 25 for index in range(30)])
    raw = draw_video(tmp_path / "a.h264", range(30), tick=None).rename(tmp_path / "raw.mpg")
    assert np.diff(times_in(raw)).min() > 0


def test_pixels_are_rgb_and_those_that_opencv_reads(draw_video, tmp_path):
    path = draw_video(tmp_path / "a.mp4", QUARTER_SECONDS, size=(120, 160))
    video = cv2.VideoCapture(str(path))
    for _, image in read_video(path):
        expected = video.read()[1][..., ::-1]
        assert image.shape == (120, 160, 3)
        assert np.abs(image.astype(int) - expected).mean() < 2


@pytest.mark.parametrize(("pixels", "color_range"), [("yuv420p", 1), ("yuvj420p", 2)])
@pytest.mark.parametrize(("number", "name"), [(1, "ITU709"), (6, "ITU601")])
def test_colors_follow_the_color_space_of_the_video(tmp_path, pixels, color_range, number, name):
    path = tmp_path / "a.mp4"
    image = np.full((48, 64, 3), (200, 60, 30), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = number, color_range
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels, dst_colorspace=name)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _, read = next(read_video(path))
    assert read.mean((0, 1)) == pytest.approx((200, 60, 30), abs=3)


def test_odd_sizes_are_read(draw_video, tmp_path):
    path = draw_video(tmp_path / "a.webm", QUARTER_SECONDS, size=(47, 63), codec="libvpx")
    assert {image.shape for _, image in read_video(path)} == {(47, 63, 3)}


@pytest.mark.parametrize(
    ("matrix", "corner", "size"),
    [
        ((1, 0, 0, 1), (False, False), (48, 64)),
        ((0, 1, -1, 0), (False, True), (64, 48)),  # 90 degrees clockwise: from top left to top right
        ((-1, 0, 0, -1), (True, True), (48, 64)),
        ((0, -1, 1, 0), (True, False), (64, 48)),
        ((-1, 0, 0, 1), (False, True), (48, 64)),  # mirrored
        ((0, 1, 1, 0), (False, False), (64, 48)),  # transposed
    ],
)
def test_frames_are_upright(draw_video, tmp_path, matrix, corner, size):
    path = transform(draw_video(tmp_path / "a.mp4", QUARTER_SECONDS), *matrix)
    _, image = next(read_video(path))
    assert image.shape[:2] == size
    assert red_corner(image) == corner
    assert image.flags.c_contiguous


def test_frames_are_freed_without_the_garbage_collector(draw_video, tmp_path):
    path = draw_video(tmp_path / "a.mp4", [index / 25 for index in range(100)])
    gc.collect()
    gc.disable()
    try:
        for _ in read_video(path):
            pass
        alive = [one for one in gc.get_objects() if type(one) is av.VideoFrame]
    finally:
        gc.enable()
    assert len(alive) < 5


def test_a_video_is_decoded_frame_by_frame(draw_video, tmp_path, monkeypatch):
    path = draw_video(tmp_path / "a.mp4", [index / 25 for index in range(100)])
    converted = []
    convert = video._upright
    monkeypatch.setattr(video, "_upright", lambda *arguments: converted.append(1) or convert(*arguments))
    frames = read_video(path)
    for _ in range(3):
        next(frames)
    assert len(converted) == 3


def test_of_several_video_streams_the_first_is_read(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mjpeg", rate=10) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for _ in range(3):
            for stream, value in zip(streams, (50, 200), strict=True):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
    assert [image.mean() for _, image in read_video(path)] == pytest.approx([50] * 3, abs=3)


# Files that are damaged


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [("a.mp4", "libx264", None), ("a.mp4", "libx264", "aac"), ("a.mkv", "libx264", "aac"), ("a.avi", "mjpeg", None)],
)
def test_a_video_that_is_cut_off_is_read_up_to_the_cut_and_reported(draw_video, tmp_path, name, codec, sound):
    options = {"movflags": "+faststart"} if name == "a.mp4" else {}
    times = [index / 25 for index in range(200)]
    tick = None if name == "a.avi" else 1000
    path = draw_video(tmp_path / name, times, codec=codec, sound=sound, tick=tick, container_options=options)
    assert times_in(path) == pytest.approx(times, abs=0.03)
    read, message = read_until_damage(cut(path, 0.5))
    assert 20 < len(read) < 180
    assert read == pytest.approx(times[: len(read)], abs=0.03)
    assert message.startswith(f"{path}: the video is damaged: ")
    ended = re.search(r"it ends after (.+) of 8\.0 seconds; copy the file again", message)
    assert float(ended[1]) == pytest.approx(read[-1], abs=0.3)


def test_a_video_with_fewer_frames_than_its_rate_promises_is_whole(draw_video, tmp_path):
    """The rate of the header says 25 frames per second; there are four."""
    path = draw_video(tmp_path / "a.mkv", QUARTER_SECONDS)
    assert times_in(path) == pytest.approx(QUARTER_SECONDS)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_that_is_longer_than_the_pictures_is_no_damage(draw_video, tmp_path, name):
    path = draw_video(tmp_path / name, [0.0, 0.1, 0.2], sound="aac")
    assert len(times_in(path)) == 3


@pytest.mark.parametrize("first", [0, 10])
def test_damaged_frames_are_counted_and_the_others_are_read(draw_video, tmp_path, first):
    path = draw_video(tmp_path / "a.avi", range(40), codec="mjpeg", tick=None)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for packet in packets[first : first + 3]:
            start = data.index(bytes(packet))
            data[start : start + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    assert check_video(path) == 40
    times, message = read_until_damage(path)
    assert times == pytest.approx([index / 25 for index in range(40) if not first <= index < first + 3])
    assert "3 frames cannot be decoded" in message


def test_a_video_without_a_frame_that_can_be_decoded_is_refused(draw_video, tmp_path):
    path = draw_video(tmp_path / "a.avi", range(3), codec="mjpeg", tick=None)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in [packet for packet in container.demux(video=0) if packet.size]:
            start = data.index(bytes(packet))
            data[start : start + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.avi: the video is damaged: 3 frames cannot be decoded"):
        check_video(path)


@pytest.mark.parametrize("read", [check_video, lambda path: list(read_video(path))])
def test_what_is_no_video_is_refused_with_the_reason(tmp_path, read):
    empty, text, playlist = (tmp_path / name for name in ("empty.mp4", "text.mp4", "list.mp4"))
    empty.touch()
    text.write_text("hello")
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(DataError, match=r"empty\.mp4: the file is empty; expected a video"):
        read(empty)
    with pytest.raises(DataError, match=r"missing\.mp4: no such video; check the path"):
        read(tmp_path / "missing.mp4")
    for path in (text, playlist):
        with pytest.raises(DataError, match=rf"{path.name}: the video cannot be opened; convert it to MP4 \(H\.264\)"):
            read(path)


def test_a_file_with_sound_only_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(DataError, match=r"a\.mp4: has no video stream, only: audio"):
        check_video(path)


def test_a_name_with_a_colon_is_a_file(draw_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_video(tmp_path / "a.mp4", QUARTER_SECONDS).rename("http:a.mp4")
    assert len(times_in(Path("http:a.mp4"))) == 12


def test_the_log_that_torchvision_switches_on_is_off_while_a_video_is_open(draw_video, tmp_path):
    """With the log on, closing a video waits for threads that wait for Python's lock, now and then for ever."""
    path = draw_video(tmp_path / "a.mp4", QUARTER_SECONDS)
    av.logging.set_level(av.logging.ERROR)
    with open_video(path):
        assert av.logging.get_level() is None


# Files that may be anything


def test_a_video_of_too_large_pictures_is_refused(draw_video, tmp_path, monkeypatch):
    path = draw_video(tmp_path / "a.mp4", QUARTER_SECONDS)
    monkeypatch.setenv("EFFDET_MAX_PIXELS", "3000")
    with pytest.raises(
        DataError, match=r"a\.mp4: has 64 x 48 pixels according to its header, the limit is 3000 pixels of"
    ):
        check_video(path)
    monkeypatch.setenv("EFFDET_MAX_PIXELS", "3072")
    assert check_video(path) == 12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
def test_pipes_and_devices_are_no_videos(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    for name, kind in (("pipe.mp4", "pipe"), ("zero.mp4", "device")):
        with pytest.raises(DataError, match=rf"{name}: is a {kind}; expected a video file"):
            check_video(tmp_path / name)


def test_a_playlist_reaches_for_no_other_file(draw_video, tmp_path):
    draw_video(tmp_path / "a.ts", QUARTER_SECONDS)
    for name, text in (
        ("a.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.ts\n#EXT-X-ENDLIST\n"),
        ("b.mp4", "ffconcat version 1.0\nfile a.ts\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="cannot be opened"):
            check_video(tmp_path / name)


def test_descriptors_are_closed(draw_video, tmp_path):
    path = draw_video(tmp_path / "a.mp4", QUARTER_SECONDS)
    (tmp_path / "b.mp4").write_text("hello")
    check_video(path)  # may open what stays open
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        check_video(path)
        with pytest.raises(DataError):
            check_video(tmp_path / "b.mp4")
    assert len(os.listdir("/dev/fd")) == before


def test_names_in_a_header_that_are_no_text_are_no_hindrance(draw_video, tmp_path):
    path = draw_video(tmp_path / "a.flv", QUARTER_SECONDS, codec="flv")
    data = path.read_bytes()
    assert b"videocodecid" in data
    path.write_bytes(data.replace(b"videocodecid", b"vide\xcbcodecid"))
    assert check_video(path)
