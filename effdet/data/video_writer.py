"""Frames with time stamps to an MP4 video that browsers play, with the sound of another video.

Reading videos is in `video.py`; what is drawn on the frames is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet.data.images import Image
from effdet.data.video import FALLBACK_RATE, open_video, silence_log, start_of, usable_rate
from effdet.data.video_cut import is_cut_off
from effdet.errors import DataError
from effdet.files import atomic_write

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer

_TICK = Fraction(
    1, 60000
)  # of the clock; exact for 24, 25, 30, 50, 60 and 29.97 frames per second, MPEG-4 allows no finer
_ENCODERS = {  # the best first, with their settings
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libopenh264": {},
    "mpeg4": {"qscale": "3"},
}
# The table of contents at the start, so that browsers play the file while they load it; times to the same tick.
_MP4 = {"movflags": "+faststart", "movie_timescale": "60000"}
_PLAYED_BY_BROWSERS = ("libx264", "libopenh264")
_SOUND_OF_MP4 = ("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus")


class VideoWriter:
    """Writes pictures of one size as an MP4 video, H.264 with 4:2:0 chroma; the file appears when it is complete.

    H.264 needs even sides: with an odd one the last row or column of pixels is repeated, so that nothing is cut off. A
    picture of another size than the first, as calls over a bad network have, is resized to the first. The sound of the
    source is copied without encoding it again, up to the end of the pictures. Without any picture there is no file.

    Attributes:
        path: the file.
        notes: what a user should know: sound that could not be copied, a codec that browsers may not play.
    """

    def __init__(self, path: Path, source: Path | None = None) -> None:
        """A writer to `path`, with the sound of the video `source`."""
        self.path, self.notes = path, list[str]()
        self._source = source
        self._file = ExitStack()  # of the file until it is complete
        self._output: OutputContainer | None = None
        self._sound: Generator[tuple[float, Any]] | None = None
        self._ticks, self._interval = -1, 0  # of the last picture, and from the one before to it
        self._packets = 0  # of the pictures
        self._failed = False

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: Image, time: float) -> None:
        """Adds a picture, uint8 RGB [H, W, 3], shown `time` seconds after the start of the video; times increase.

        Raises:
            DataError: the video cannot be written.
        """
        import av

        try:
            if self._output is None:
                self._start(image)
            frame = av.VideoFrame.from_ndarray(self._fitted(image), format="rgb24")
            ticks = max(round(time / _TICK), self._ticks + 1)
            if self._ticks >= 0:
                self._interval = ticks - self._ticks
            self._ticks = ticks
            frame.pts, frame.time_base = ticks, _TICK
            self._mux_pictures(self._stream.encode(frame))
            self._copy_sound(ticks)
        except (av.FFmpegError, OSError) as error:
            self._failed = True
            raise self._not_writable(error) from None

    def __exit__(self, *exception: object) -> None:
        import av

        try:
            with self._file:
                self._complete()
        except (av.FFmpegError, OSError) as error:
            if not self._failed:
                raise self._not_writable(error) from None

    def _complete(self) -> None:
        """Writes the end of the video and reads all of it again, because not every error of a disk is reported.

        Raises:
            OSError: the file is not complete.
        """
        if self._output is None and not self._failed:  # no pictures
            return
        try:
            if self._failed:
                raise OSError("an earlier picture could not be written")
            packets = self._stream.encode(None)
            for packet in packets:
                packet.duration = self._interval or packet.duration  # the last picture is shown as long as before
            self._mux_pictures(packets)
            self._copy_sound(self._ticks + self._interval)
        finally:
            if self._output is not None:
                self._output.close()
            if self._sound is not None:
                self._sound.close()
        if not _holds_packets(self._partial, self._packets):
            raise OSError("the disk is full, or a limit of the file size was reached")

    def _start(self, image: Image) -> None:
        """Opens the file with its streams; an MP4 must know them all before the first packet."""
        import av

        silence_log()
        encoder = next(name for name in _ENCODERS if name in av.codecs_available)
        if encoder not in _PLAYED_BY_BROWSERS:
            self.notes.append(
                "videos are written as MPEG-4, which browsers may not play, because this build of PyAV has no H.264 "
                "encoder; install av from PyPI"
            )
        rate = self._rate_of_source()
        self._partial = self._file.enter_context(atomic_write(self.path))
        self._output = av.open(f"file:{self._partial}", "w", format="mp4", options=_MP4)
        stream: Any = self._output.add_stream(
            encoder, rate=Fraction(rate).limit_denominator(1001), options=dict(_ENCODERS[encoder])
        )
        self._stream = stream
        self._size = image.shape[0], image.shape[1]
        stream.height, stream.width = (side + side % 2 for side in self._size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        stream.time_base = context.time_base = _TICK
        context.color_primaries, context.color_trc, context.colorspace = 1, 1, 6  # BT.709, converted by BT.601's matrix
        self._sound = self._sound_packets(self._output)
        self._next_sound = next(self._sound, None)  # adds the stream

    def _rate_of_source(self) -> float:
        """Frames per second, for the settings of the encoder; a source that cannot be opened is not used further."""
        if self._source is not None:
            try:
                return usable_rate(self._source)
            except DataError as error:
                self.notes.append(f"{self.path}: without sound: {error}")
                self._source = None
        return FALLBACK_RATE

    def _fitted(self, image: Image) -> Image:
        """The picture with the sides of the video."""
        from effdet.opencv import cv2

        height, width = self._size
        if image.shape[:2] != self._size:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return np.ascontiguousarray(image)

    def _mux(self, packets: list[Any]) -> None:
        assert self._output is not None
        self._output.mux(packets)

    def _mux_pictures(self, packets: list[Any]) -> None:
        self._packets += len(packets)
        self._mux(packets)

    def _copy_sound(self, until: int) -> None:
        """Writes the sound up to a time in ticks."""
        while self._sound is not None and self._next_sound is not None and self._next_sound[0] < until * _TICK:
            self._mux([self._next_sound[1]])
            self._next_sound = next(self._sound, None)

    def _sound_packets(self, output: OutputContainer) -> Generator[tuple[float, Any]]:
        """Adds a stream for the sound of the source; then its packets with their times in seconds."""
        import av

        if self._source is None:
            return
        with open_video(self._source) as (container, _):
            sound = next(iter(container.streams.audio), None)
            if sound is None:
                return
            codec = sound.codec_context.name if sound.codec_context is not None else "of an unknown codec"
            if codec.removesuffix("float") not in _SOUND_OF_MP4:
                self.notes.append(f"{self.path}: without sound, because an MP4 cannot hold sound of the codec {codec}")
                return
            try:
                copied = output.add_stream_from_template(sound)
            except (av.FFmpegError, ValueError) as error:
                self.notes.append(f"{self.path}: without sound, because it cannot be copied: {error}")
                return
            yield from _moved_packets(container, sound, copied)

    def _not_writable(self, error: Exception) -> DataError:
        reason = getattr(error, "strerror", None) or error
        return DataError(f"{self.path}: the video cannot be written ({reason}); check the folder and the free space")


def _holds_packets(path: Path, number: int) -> bool:
    """Whether a video can be opened and holds that many packets of pictures, all whole."""
    import av

    try:
        if is_cut_off(path):
            return False
        with open_video(path) as (container, stream):
            return number == sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
    except (DataError, av.FFmpegError):
        return False


def _moved_packets(container: InputContainer, sound: Any, copied: Any) -> Generator[tuple[float, Any]]:
    """Packets of the sound for another file, their time stamps counted from the start of the source."""
    import av

    start = start_of(container) or 0.0
    packets = container.demux(sound)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):  # the reader of the pictures reports damage
            return
        if packet.dts is None or packet.pts is None:
            continue
        offset = round(start / packet.time_base)
        packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
        time = float(packet.pts * packet.time_base)
        packet.stream = copied
        yield time, packet
