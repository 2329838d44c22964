"""Video files to frames with time stamps: the one reader of videos.

Time stamps decide, not the rate or the number of frames that a header names. Writing videos is in `video_writer.py`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from effdet.data.images import Image
from effdet.data.media_files import check_pixels, max_pixels, open_regular
from effdet.data.video_cut import is_cut_off
from effdet.errors import DataError
from effdet.text import count_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts"),
    *(".3gp", ".3g2", ".asf", ".f4v", ".m2v", ".mpe", ".mxf", ".ogv", ".vob"),
)
FALLBACK_RATE = 25.0  # frames per second where neither time stamps nor header are usable
_HIGHEST_RATE = 240.0  # a header with a higher rate means the ticks of its clock
_TOLERANCE = 1.0  # seconds that a video may end before its declared duration
_BT601 = 5
_MICROSECONDS = 1_000_000  # the unit of times of a whole file

_Matrix: TypeAlias = tuple[int, int, int, int]


def check_video(path: Path) -> int | None:
    """Opens a video and decodes its first frame; gives the number of frames for a progress bar, None if unknown.

    Raises:
        DataError: the file is empty, is no video, or has no frames that can be decoded.
    """
    if next(read_video(path), None) is None:
        raise DataError(f"{path}: the video has no frames; copy the file again or remove it")
    with open_video(path) as (container, stream):
        if stream.frames:
            return stream.frames
        rate, duration = _usable_rate(stream), _declared_duration(container, stream)[0]
        return max(1, round(duration * rate)) if rate and duration else None


def read_video(path: Path) -> Iterator[tuple[float, Image]]:
    """The frames of the first video stream, one at a time: seconds from the start of the file, uint8 RGB [H, W, 3].

    Frames are upright: the rotation and mirroring that telephones write are applied. Times increase strictly; a frame
    with a missing or repeated time stamp follows the one before it at the rate of the header. Frames that cannot be
    decoded are passed over; these and the damaged ones are counted.

    Raises:
        DataError: the file cannot be opened; after the last frame, if frames were damaged, if the file is cut off (see
            `is_cut_off`), or if the time stamps end more than a second before the declared duration.
    """
    with open_video(path) as (container, stream):
        stream.thread_type = "AUTO"
        start: float | None = start_of(container)
        declared, of_file = _declared_duration(container, stream)
        step = 1 / (_usable_rate(stream) or FALLBACK_RATE)
        matrix: _Matrix | None = None
        previous: float | None = None
        ended, damage = 0.0, _Damage()
        sound = [] if not of_file else list(container.streams.audio)
        for packet in _packets(container, [stream, *sound]):
            if packet.pts is not None and packet.time_base is not None:
                last = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                ended = max(ended, last - (start or 0.0))
            if packet.stream.index != stream.index:
                continue
            damage.packets += packet.is_corrupt
            try:
                frames = packet.decode()
            except _ffmpeg_errors():
                damage.undecoded += 1
                continue
            for frame in frames:
                damage.see(frame)
                stamp = _time_stamp(frame)
                if start is None:
                    start = stamp or 0.0
                time = None if stamp is None else max(0.0, stamp - start)
                if time is None or (previous is not None and time <= previous):
                    time = 0.0 if previous is None else previous + step
                previous = time
                if matrix is None:
                    matrix = _display_matrix(frame)
                yield time, _upright(frame, matrix)
    _report_damage(path, damage, ended, declared)


def silence_log() -> None:
    """Keeps FFmpeg's threads from writing to PyAV's log, for which they would wait while they are waited for.

    Some versions of torchvision switch that log on when they are imported, and closing a video then hangs now and then.
    """
    import av

    av.logging.set_level(None)


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file with its first video stream; pictures of covers do not count.

    Raises:
        DataError: the file is empty, is no video, holds no video stream that can be decoded, or its pictures have more
            pixels than `max_pixels`.
    """
    silence_log()
    descriptor = open_regular(path, "video")
    try:
        if not os.fstat(descriptor).st_size:
            raise DataError(f"{path}: the file is empty; expected a video, copy it again or remove it")
        with _opened(path, descriptor) as container:
            yield container, _first_stream(container, path)
    finally:
        os.close(descriptor)


def _opened(path: Path, descriptor: int) -> InputContainer:
    """An open file as a container."""
    import av

    # By its descriptor, because names may be in any encoding. Other protocols are off: a playlist that calls itself
    # .mp4 must not reach for other files or for the network.
    address, options = "fd:", {"fd": str(descriptor), "protocol_whitelist": "fd"}
    if sys.platform == "win32":  # where each library has its own descriptors
        address, options = f"file:{path}", {"protocol_whitelist": "file"}
    try:
        # Not `options`, which older versions of PyAV hand to streams that a file does not have yet, and crash.
        return av.open(address, container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = f"convert it to MP4 (H.264) or copy the file again ({_reason(error)})"
        raise _cut_off_or(path, f"the video cannot be opened; {reason}") from None


def _first_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream, ready to be decoded."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise _cut_off_or(path, f"has no video stream, only: {held}; expected a file with pictures, or remove it")
    codec = streams[0].codec_context
    if codec is None:
        raise _cut_off_or(path, "the codec of the video is not known; convert it to MP4 (H.264)")
    check_pixels(codec.height, codec.width, path)
    codec.options = {"max_pixels": str(max_pixels())}  # the size may change in the stream
    return streams[0]


def _cut_off_or(path: Path, otherwise: str) -> DataError:
    """Why a video cannot be opened."""
    fault = "the video is cut off before its end and cannot be opened; copy the file again"
    return DataError(f"{path}: {fault if is_cut_off(path) else otherwise}")


def usable_rate(path: Path) -> float:
    """Frames per second according to the header if that is plausible, otherwise a usual rate.

    Raises:
        DataError: the video cannot be opened.
    """
    with open_video(path) as (_, stream):
        return _usable_rate(stream) or FALLBACK_RATE


def start_of(container: InputContainer) -> float | None:
    """Seconds on the clock of a file at which it starts; None if its header does not say."""
    microseconds: int | None = container.start_time
    return None if microseconds is None else microseconds / _MICROSECONDS


def _usable_rate(stream: VideoStream) -> float | None:
    rate = float(stream.average_rate or 0)
    return rate if 0 < rate <= _HIGHEST_RATE else None


def _declared_duration(container: InputContainer, stream: VideoStream) -> tuple[float | None, bool]:
    """Seconds from the start of the file to the end that the header declares, and whether for all streams together."""
    names = container.format.name.split(",")
    if stream.duration and stream.time_base is not None and ("mov" in names or "avi" in names):
        ticks = stream.duration
        if "avi" in names:  # FFmpeg shortens the duration of a file that is cut off, not this length
            ticks = max(ticks, stream.frames)
        start = (stream.start_time or 0) * stream.time_base - (start_of(container) or 0)
        return float(ticks * stream.time_base) + float(start), False
    return (container.duration / _MICROSECONDS, True) if container.duration else (None, True)


def _packets(container: InputContainer, streams: list[Any]) -> Iterator[Any]:
    """The packets of some streams up to the end or to where the file is damaged."""
    packets = container.demux(streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except _ffmpeg_errors():  # the time stamps say how much is missing
            return
        yield packet


def _time_stamp(frame: VideoFrame) -> float | None:
    """Seconds on the clock of the file."""
    stamp = frame.dts if frame.pts is None else frame.pts
    return None if stamp is None or frame.time_base is None else float(stamp * frame.time_base)


def _display_matrix(frame: VideoFrame) -> _Matrix:
    """How x and y of the decoded frame map to those of the picture: x' = a x + c y, y' = b x + d y, as (a, b, c, d).

    Asked of one frame per video: a frame whose side data was read is freed by the garbage collector only.
    """
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    (a, b, _), (c, d, _), _ = np.frombuffer(side_data, np.int32).reshape(3, 3).tolist()
    return a, b, c, d


def _upright(frame: VideoFrame, matrix: _Matrix) -> Image:
    """Pixels of a frame, uint8 RGB [H, W, 3], with the rotation and mirroring of the matrix."""
    # Both are named because PyAV before 17 ignores the color space of the video otherwise.
    rgb = frame.reformat(format="rgb24", src_colorspace=frame.colorspace, dst_colorspace=_BT601)
    image: Image = np.asarray(rgb.to_ndarray(), np.uint8)
    along_x, b, c, along_y = matrix
    if abs(b) > abs(along_x):
        image, along_x, along_y = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if along_y < 0 else 1, :: -1 if along_x < 0 else 1])


@dataclass
class _Damage:
    """What is damaged in a video, counted while it is read.

    Attributes:
        undecoded: frames that cannot be decoded.
        frames: frames after the first whole one that the decoder marks: they show something else than was stored.
        packets: packets that the container marks.
        started: whether there was a whole frame; those before it may refer to what a recording does not have.
        last_is_whole: whether the last frame was.
    """

    undecoded: int = 0
    frames: int = 0
    packets: int = 0
    started: bool = False
    last_is_whole: bool = True

    def see(self, frame: VideoFrame) -> None:
        """Counts the next frame."""
        self.frames += self.started and frame.is_corrupt
        self.started = self.started or not frame.is_corrupt
        self.last_is_whole = not frame.is_corrupt


def _report_damage(path: Path, damage: _Damage, ended: float, declared: float | None) -> None:
    """Raises DataError if frames were damaged or the video ended early."""
    faults = [f"{count_of(damage.undecoded, 'frame')} cannot be decoded"] if damage.undecoded else []
    marked = max(damage.frames, damage.packets)
    if marked:
        faults.append(f"{count_of(marked, 'frame')} {'is' if marked == 1 else 'are'} damaged")
    if declared is not None and ended < declared - _TOLERANCE:
        faults.append(f"it ends after {ended:.1f} of {declared:.1f} seconds")
    elif not damage.last_is_whole or is_cut_off(path):
        faults.append("it is cut off before its end")
    if faults:
        raise DataError(f"{path}: the video is damaged: {' and '.join(faults)}; copy the file again")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _ffmpeg_errors() -> tuple[type[Exception], ...]:
    import av

    return (av.FFmpegError,)
