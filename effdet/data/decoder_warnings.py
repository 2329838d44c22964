"""What decoders written in C print to standard error, heard for each image.

OpenCV gives no access to the warnings of libjpeg, libtiff and OpenJPEG, which are printed. What those of libjpeg mean
is in `jpeg.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# What OpenCV and its decoders print; what other threads print in the meantime is passed on.
_PRINTED = re.compile(
    rb"^(?:Corrupt JPEG|Premature end of|Inconsistent progression|Unknown Adobe|Warning: unknown JFIF|Invalid SOS"
    rb"|libpng |JPEGLib: "
    rb"|tempfile\.tif: |\w*(?:TIFF\w+|Decode|Setup\w*|ByteCounts|Required): |\[ ?(?:ERROR|WARN):\d+@).*(?:\n> .*)*\n*",
    re.MULTILINE,
)
# Tags of TIFF on which the pixels depend; a decoder ignores those that it cannot read.
_TAGS = (
    r"(?:Bits|Sample|Samples|Strip|Tile|Rows)(?:Per\w+|Format|Offsets|ByteCounts)|ColorMap|Compression|FillOrder|InkSet"
    r"|JPEGTables|PhotometricInterpretation|PlanarConfiguration|Predictor|ReferenceBlackWhite|YCbCr\w+"
)
_FAULT = re.compile(
    r"(?:TIFF_Error|errorLogCallback) (?!.*(?i:directory))(.*)"  # pixels are wrong, not tags of another page
    rf'|TIFF_Warning (.*"(?:{_TAGS})"; tag ignored)'
    r"|warningLogCallback (.*(?:does not end|too long|too short|truncated|corrupt).*)"
    r"|JPEGLib: (Corrupt JPEG data: (?!\d extraneous).*)"
)


def with_warnings(decode: Callable[[], Result]) -> tuple[Result, str]:
    """What a decoder gives, and its warnings; "" for none.

    Images may be decoded in several threads at once. One that is damaged is decoded twice.
    """
    return _STANDARD_ERROR.listen(decode)


def decoding_fault(warnings: str) -> str | None:
    """What is damaged in a TIFF or JPEG 2000 file that was decoded all the same; None for nothing."""
    match = _FAULT.search(warnings)
    return None if match is None else match[match.lastindex or 0]


class _StandardError:
    """Standard error of this process, which goes to a file in memory while images are decoded.

    A process has one, so there is one object of this class. Threads that decode at the same time cannot know whose
    warning it was; so after one, each of them decodes its image again while the others wait.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._decoding = 0  # threads
        self._waiting = 0  # threads that want to be alone
        self._file: int | None = None
        self._original: int | None = None  # None if it was closed
        self._diverted = False

    def listen(self, decode: Callable[[], Result]) -> tuple[Result, str]:
        """See `with_warnings`."""
        with self._turn:
            if self._waiting:
                self._turn.wait_for(lambda: not self._waiting)
            if not self._decoding:
                self._divert()
            self._decoding += 1
        heard = False
        try:
            result = decode()
        finally:
            with self._turn:
                self._decoding -= 1
                heard = self._file is not None and os.fstat(self._file).st_size > 0
                if not self._decoding:
                    self._restore()
                if self._waiting:
                    self._turn.notify_all()
        return self._alone(decode) if heard else (result, "")

    def forget(self) -> None:
        """In a new process: gives it the standard error of its parent back."""
        self._end()
        if self._file is not None:  # both would write to the same
            os.close(self._file)
        self.__init__()  # type: ignore[misc]

    def _alone(self, decode: Callable[[], Result]) -> tuple[Result, str]:
        with self._turn:
            self._waiting += 1
            self._turn.wait_for(lambda: not self._decoding)
            self._waiting -= 1
            self._turn.notify_all()
            self._divert()
            try:
                result = decode()
            finally:
                text = self._restore()
        return result, text

    def _divert(self) -> None:
        try:
            if self._file is None:
                self._file = _file_in_memory()
            self._original = _copy_of_standard_error()
            os.dup2(self._file, 2)
            self._diverted = True
        except OSError:  # no descriptor is left; then nothing is heard
            self._end()

    def _restore(self) -> str:
        """Ends the diversion; gives the warnings, and passes on what else was printed."""
        self._end()
        if self._file is None or not (size := os.fstat(self._file).st_size):
            return ""
        os.lseek(self._file, 0, os.SEEK_SET)
        printed = os.read(self._file, size)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)
        if others := _PRINTED.sub(b"", printed):
            with contextlib.suppress(OSError):
                os.write(2, others)
        return b"".join(_PRINTED.findall(printed)).decode(errors="replace")

    def _end(self) -> None:
        diverted, self._diverted = self._diverted, False
        original, self._original = self._original, None
        if original is not None:
            os.dup2(original, 2)
            os.close(original)
        elif diverted:
            os.close(2)


def _copy_of_standard_error() -> int | None:
    try:
        return os.dup(2)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return None


def _file_in_memory() -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("decoder-warnings")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    while descriptor <= 2:  # a standard stream was closed; that number is not to be used again
        descriptor = os.dup(descriptor)
    return descriptor


_STANDARD_ERROR = _StandardError()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_STANDARD_ERROR.forget)
