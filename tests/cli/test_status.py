"""The exit statuses, and errors of the operating system as sentences."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from effdet.cli import main, status
from effdet.cli.faults import remedy


def test_the_statuses_are_those_of_the_readme():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Exit statuses")[2].partition("##")[0]
    listed = [int(line.split("|")[1]) for line in table.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert listed == sorted(value for name, value in vars(status).items() if name.isupper())


@pytest.fixture
def ending(monkeypatch):
    """A function that runs a verb which raises an error; gives the exit status."""

    def run(error):
        def fail(args):
            raise error

        monkeypatch.setattr("effdet.cli.models.run", fail)
        return main(["models"])

    return run


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "choose another folder"),
        (errno.EACCES, "change its permissions"),
        (errno.EMFILE, "ulimit -n 4096"),
        (errno.ENOENT, "moved, removed or replaced"),
        (errno.EIO, "check the disk"),
        (errno.ENAMETOOLONG, "shorter name"),
    ],
)
def test_an_error_of_the_system_is_one_sentence_with_a_remedy(ending, capsys, number, advice):
    assert ending(OSError(number, os.strerror(number), "a.csv")) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: a.csv: {os.strerror(number)}; ")
    assert advice in line
    assert line.count("\n") == 1


def test_without_a_temporary_folder_the_variable_is_named():
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert (
        remedy(error) == "No usable temporary directory found in ['/tmp']; set TMPDIR to a folder that can be written"
    )


def test_an_error_that_only_a_bug_causes_keeps_its_traceback(ending):
    assert remedy(OSError(errno.EBADF, "Bad file descriptor")) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        ending(OSError(errno.EBADF, "Bad file descriptor"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(tmp_path, closed):
    command = f"{sys.executable} -m effdet config --schema {closed}"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert bool(ended.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_ctrl_c_ends_with_130(ending):
    assert ending(KeyboardInterrupt()) == 130


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGTERM of other processes")
def test_sigterm_ends_with_143_after_everything_is_closed(monkeypatch):
    closed = []

    def run(args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("effdet.cli.models.run", run)
    with pytest.raises(SystemExit) as end:
        main(["models"])
    assert (end.value.code, closed) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) is before
