import glob
import os
from pathlib import Path

import pytest

from effdet.inference.walking import DEEPEST, files_below, files_of_glob


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def refuse(folder, reason):
    pytest.fail(f"{folder}: {reason}")


@pytest.mark.parametrize(
    "pattern",
    [
        *("*.jpg", "**/*.jpg", "**", "**/*", "*/*.jpg", "a/**/*.jpg", "**/**/x.jpg", "**/b/**/*.jpg", "?/x.jpg"),
        *("[ab]/*", "a/b/x.jpg", "*/b/x.jpg", ".h/*.jpg", ".*/*.jpg", "**/.h/*.jpg", "a/../*.jpg", "*/../*/x.jpg"),
        *("none/*.jpg", "x.jpg/*.jpg", "a/b/c/d/*/x.jpg", "**.jpg", "a*/**"),
    ],
)
def test_a_glob_matches_what_python_matches(tmp_path, pattern, monkeypatch):
    touch(
        tmp_path,
        "x.jpg",
        "y.JPG",
        "a/x.jpg",
        "a/b/x.jpg",
        "a/b/c/x.jpg",
        "b/x.jpg",
        "b/b/y.jpg",
        ".h/x.jpg",
        "a/.x.jpg",
    )
    monkeypatch.chdir(tmp_path)
    for whole in (pattern, str(tmp_path / pattern)):
        expected = {Path(path) for path in glob.glob(whole, recursive=True) if os.path.isfile(path)}
        found = list(files_of_glob(Path(whole), refuse))
        assert len(found) == len(set(found))
        # A folder is read once, so of two ways to a file one is enough.
        assert {path.resolve() for path in found} == {path.resolve() for path in expected}
        if ".." not in pattern:
            assert set(found) == expected


@pytest.mark.parametrize("pattern", ["**/*.jpg", "**/**/*.jpg", "*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/x.jpg"])
def test_links_in_circles_are_followed_once(tmp_path, pattern):
    touch(tmp_path, "x.jpg", "a/y.jpg")
    for name in ("l1", "l2", "a/up", "a/l3"):
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
    found = {path.resolve() for path in files_of_glob(tmp_path / pattern, refuse)}
    assert found == ({tmp_path / "x.jpg", tmp_path / "a/y.jpg"} if "**" in pattern else {tmp_path / "x.jpg"})
    assert len(list(files_below(tmp_path, refuse))) == 2


def test_folders_that_are_too_deep_are_named(tmp_path):
    folder = tmp_path
    for _ in range(DEEPEST + 3):
        folder /= "d"
    touch(tmp_path, "x.jpg")
    folder.mkdir(parents=True)
    touch(folder, "y.jpg")
    refused = []
    found = [
        *files_below(tmp_path, lambda *row: refused.append(row)),
        *files_of_glob(tmp_path / "**/*.jpg", lambda *row: refused.append(row)),
    ]
    assert [path.name for path in found] == ["x.jpg", "x.jpg"]
    deep = str(tmp_path.joinpath(*["d"] * (DEEPEST + 1)))
    assert refused == [(deep, "lies more than 100 folders deep; name it itself")] * 2
    assert [path.name for path in files_below(folder.parent, refuse)] == ["y.jpg"]


def test_what_is_no_regular_file_is_listed_too(tmp_path):
    (tmp_path / "broken.jpg").symlink_to("missing")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
    expected = {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in files_below(tmp_path, refuse)} == expected
    assert {path.name for path in files_of_glob(tmp_path / "*.jpg", refuse)} == expected
