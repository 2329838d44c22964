"""Files that appear whole or not at all, and folders that one process owns."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from effdet.errors import ConfigError
from effdet.files import atomic_folder, atomic_write, full_path, home_folder, read_bytes, read_text, write_text
from effdet.folders import new_folder, owned_file, owned_folder

CODE = (
    "import sys, pathlib; from effdet.files import atomic_write; from effdet.folders import owned_file, owned_folder\n"
    "folder = pathlib.Path(sys.argv[1])\n"
)


def started(code, folder):
    """A process that runs code on a folder; what it prints is read line by line."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE + code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("\u00e9" * 125 + ".json")
    write_text(path, "content")
    assert path.read_text() == "content"


def test_a_link_with_the_name_of_a_partial_file_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr("effdet.files.secrets.token_hex", lambda _: "0" * 8)
    (tmp_path / f".effdet-{os.getpid()}-00000000.partial").symlink_to("precious")
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "a"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("writing", [atomic_write, atomic_folder])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, writing):
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "a"):
        1 / 0  # noqa: B018
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_a_folder_has_one_owner_who_is_named(tmp_path):
    other = started("with owned_folder(folder): print(1, flush=True); input()", tmp_path / "run")
    other.stdout.readline()
    with (
        pytest.raises(ConfigError, match=rf"run: process {other.pid} on .* is writing to this folder; wait for it, or"),
        owned_folder(tmp_path / "run"),
    ):
        pass
    other.kill()
    other.wait()
    with owned_folder(tmp_path / "run"):  # the lock of a killed process does not count
        (tmp_path / "run" / "result").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_a_file_has_one_owner_whatever_the_length_of_its_name(tmp_path):
    path = tmp_path / ("\u00e9" * 125 + ".json")
    other = started("with owned_file(folder): print(1, flush=True); input()", path)
    other.stdout.readline()
    with (
        pytest.raises(ConfigError, match=rf"json: process {other.pid} on .* is writing to this file; wait for it, or"),
        owned_file(path),
    ):
        pass
    with owned_file(tmp_path / "other.json"):
        pass
    other.communicate("\n")
    with owned_file(path):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_was_writing_is_removed_by_the_next_owner(tmp_path):
    code = "with owned_folder(folder), atomic_write(folder / 'last.pt') as file: print(1, flush=True); input()"
    other = started(code, tmp_path)
    other.stdout.readline()
    other.kill()
    other.wait()
    assert any(path.name.endswith(".partial") for path in tmp_path.iterdir())
    with owned_folder(tmp_path), atomic_write(tmp_path / "best.pt"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_files_that_a_running_process_writes_stay(tmp_path):
    with atomic_write(tmp_path / "a") as partial:
        with owned_folder(tmp_path):
            assert partial.exists()
        partial.write_text("whole")
    assert (tmp_path / "a").read_text() == "whole"


def test_a_file_of_an_earlier_process_with_the_same_number_is_removed(tmp_path):
    path = tmp_path / f".effdet-{os.getpid()}-00000000.partial"
    path.write_text("of a container that was killed")
    os.utime(path, (1e9, 1e9))
    with owned_folder(tmp_path):
        assert not path.exists()


def test_a_folder_that_stays_empty_is_removed_unless_it_was_there(tmp_path):
    with owned_folder(tmp_path / "new"):
        pass
    (tmp_path / "old").mkdir()
    with owned_folder(tmp_path / "old"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_new_folder_has_the_first_free_name_and_is_removed_if_it_stays_empty(tmp_path):
    first = tmp_path / "runs/predict"
    with new_folder(first) as folder, new_folder(first) as second:
        (folder / "predictions.json").write_text("[]")
        assert (folder, second) == (first, tmp_path / "runs/predict-2")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["predict"]
    (tmp_path / "runs/predict-2").write_text("a file")
    with new_folder(first) as folder:
        assert folder == tmp_path / "runs/predict-3"


def test_processes_that_start_at_once_get_folders_of_their_own(tmp_path):
    code = (
        "from effdet.folders import new_folder; input()\n"
        "taken = [new_folder(folder / 'predict') for _ in range(20)]\n"
        "for new in taken: path = new.__enter__(); (path / 'a').touch(); print(path.name, flush=True)"
    )
    others = [started(code, tmp_path) for _ in range(3)]
    for other in others:
        other.stdin.write("\n")
        other.stdin.flush()
    names = [name for other in others for name in other.communicate()[0].split()]
    assert len(names) == len(set(names)) == 60


def test_a_new_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"runs: is a file, expected a folder"), new_folder(tmp_path / "runs/predict"):
        pass


def test_an_error_of_a_library_on_a_full_disk_becomes_that_of_the_system(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with (
            pytest.raises(OSError, match="File too large") as caught,
            atomic_write(tmp_path / "plot.png"),
        ):
            raise ValueError("encoder error -2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "plot.png"))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_library_that_has_nothing_to_do_with_the_disk_stays(tmp_path):
    with pytest.raises(ValueError, match="encoder error -2"), atomic_write(tmp_path / "plot.png"):
        raise ValueError("encoder error -2")
    with pytest.raises(FileNotFoundError, match="source"), atomic_write(tmp_path / "plot.png"):
        (tmp_path / "source").read_bytes()


def test_a_folder_that_has_been_filled_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(tmp_path / "out", replace=False):  # noqa: PT012
        (tmp_path / "out").mkdir()
        (tmp_path / "out/other").write_text("of another process")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "other"]


def test_without_a_home_folder_the_variable_is_named(monkeypatch):
    monkeypatch.delenv("EFFDET_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(ConfigError, match=r"no home folder .* set EFFDET_HOME to a folder"):
        home_folder()


def test_the_home_of_an_unknown_user_is_an_error():
    with pytest.raises(ConfigError, match=r"^~nosuchuser/a: there is no such home folder; write the whole path"):
        full_path("~nosuchuser/a")


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("é\r\n", encoding="utf-8", newline="")
    assert read_text(tmp_path / "a.txt") == "é\n"
    assert read_bytes(tmp_path / "a.txt") == b"\xc3\xa9\r\n"
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "is a pipe"), ("/dev/zero", "is a device"), (tmp_path, "dir")):
        for read in (read_text, read_bytes):
            with pytest.raises(OSError, match=message):
                read(path)


def test_a_path_with_nul_is_refused():
    with pytest.raises(ConfigError, match=r"'a\\x00b': a path cannot hold the character NUL"):
        full_path("a\0b")


@pytest.mark.parametrize("path", ["", ".", "..", "/", "folder"])
def test_a_folder_is_not_replaced_by_a_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(Path(path), "content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
