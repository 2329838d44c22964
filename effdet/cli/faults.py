"""What the command line says about errors of the operating system: disk full, no permission, too many open files.

Errors of our own types have their sentences where they arise.
"""

from __future__ import annotations

import errno

_SPACE = "free some space, or choose another folder; then start again"
_PERMISSION = "change its permissions, or choose another folder"
_GONE = "it was moved, removed or replaced meanwhile; put it back, then start again"
_DRIVE = "check the disk or the network drive"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "the limit of the size of files is reached; raise it with ulimit -f",
    errno.EROFS: _PERMISSION,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EMFILE: "raise the limit of open files with ulimit -n 4096, or lower data.workers",
    errno.ENFILE: "close other programs, or lower data.workers",
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.EISDIR: "it is a folder where a file belongs; give the path of a file",
    errno.ESTALE: _GONE,
    errno.ENODEV: _GONE,
    errno.EIO: _DRIVE,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "it is a link that leads to itself; remove it",
    errno.ENXIO: "give a regular file",
    errno.EAGAIN: "no more processes or threads can be started; lower data.workers",
    errno.ENOMEM: "there is not enough memory; lower data.workers or the batch size",
}


def remedy(error: OSError) -> str | None:
    """A sentence about an error of the operating system, with what to do; None for one that only a bug can cause.

    Example:
        >>> import errno
        >>> remedy(OSError(errno.ENOSPC, "No space left on device", "a.csv"))
        'a.csv: No space left on device; free some space, or choose another folder; then start again'
    """
    advice = _REMEDIES.get(error.errno or 0)
    if "temporary directory" in str(error):
        return f"{error.strerror}; set TMPDIR to a folder that can be written"
    if advice is None:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    place = " and ".join(names) or "a file"
    return f"{place}: {error.strerror}; {advice}"
