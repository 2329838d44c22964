"""The processes of the loader: whether they can be started, how they begin and end, and why one died.

What they load is in `loader.py`.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from effdet.errors import DataError

ENDING = 5.0  # seconds within which loader processes end when they are asked to


def check_start(workers: int) -> None:
    """Does nothing if there are enough semaphores and descriptors for loader processes; they are given back.

    Raises:
        OSError: there are not.
    """
    pipes: list[int] = []
    try:
        queues: list[Any] = [multiprocessing.Queue() for _ in range(workers and workers + 3)]
        for _ in queues:
            pipes += os.pipe()
    finally:
        for descriptor in pipes:
            os.close(descriptor)


def can_send_tensors() -> bool:
    """Whether loader processes can send tensors: their memory is handed over by a socket in a temporary folder.

    There may be no such folder, or its path may be too long for a socket. A process that cannot send a tensor says
    nothing to the one that waits for it.
    """
    try:
        connection.Listener().close()
    except OSError:
        return False
    return True


def start_advice(error: OSError) -> str:
    """What to do where loader processes cannot be started."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files with ulimit -n 4096, or set data.workers=0"
    if error.errno == errno.ENOSPC:  # of semaphores, which are files there
        return "/dev/shm is full: set data.workers=0, or give a container more with --shm-size=1g"
    return "lower data.workers; 0 loads in the main process"


def death(dead: Sequence[BaseProcess]) -> str:
    """Message about loader processes that died: which, how, and what to do."""
    codes = [process.exitcode or 0 for process in dead]
    how = ", ".join(
        f"{process.pid}: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        for process, code in zip(dead, codes, strict=True)
    )
    if -signal.SIGKILL in codes:
        advice = "most likely memory ran out: lower data.workers or train.batch_size"
    elif -signal.SIGBUS in codes:
        advice = "most likely shared memory ran out: lower data.workers, or give a container more with --shm-size=8g"
    else:
        advice = "data.workers=0 loads in the main process and shows where it happens"
    return f"{len(dead)} of the loader processes died (process {how}); {advice}"


@contextlib.contextmanager
def killed_after(seconds: float, processes: Sequence[BaseProcess]) -> Iterator[None]:
    """A context in which processes are asked to end; those that do not, because they hang, are killed after a while."""

    def kill() -> None:
        for process in processes:
            process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def watched(processes: Sequence[BaseProcess]) -> Iterator[threading.Event]:
    """An event to be set while this process waits for `processes`; if one dies meanwhile, a DataError is raised.

    PyTorch has its own signal handler for this, which raises a RuntimeError wherever the main process is, even in the
    middle of a step; this handler runs before it.
    """
    waiting = threading.Event()
    if not processes or not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    before = signal.getsignal(signal.SIGCHLD)

    def handle(number: int, frame: FrameType | None) -> None:
        dead = [process for process in processes if process.exitcode]
        if dead and waiting.is_set():
            raise DataError(death(dead))
        if processes and not dead and callable(before):  # without any, they are just being ended
            before(number, frame)

    signal.signal(signal.SIGCHLD, handle)
    try:
        yield waiting
    finally:
        if signal.getsignal(signal.SIGCHLD) is handle:
            signal.signal(signal.SIGCHLD, before)


def lacks_descriptors(error: Exception) -> bool:
    """Whether too many files are open; a loader process has only the text of the error left."""
    return getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(error)


def start_worker(worker: int) -> None:
    """Prepares a loader process: one thread, and signals to the process group are left to the main process."""
    from effdet.opencv import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # other systems do not say who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm, args=(os.getppid(),), daemon=True).start()
    cv2.setNumThreads(0)


def _exit_on_sigterm(parent: int) -> None:
    """Ends the process on the parent's SIGTERM, but not on that of others, after which the parent still saves."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
