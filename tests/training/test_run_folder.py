import os
from pathlib import Path

import pytest
from rich.console import Console

from effdet.cli import main
from effdet.errors import ConfigError
from effdet.training.run_folder import choose_folders, existing_run, newest_run, recipe_of_run, run_folder

QUIET = Console(quiet=True)
RECIPE = Path("tiny.yaml")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved_run(folder, run, time):
    """A folder with the checkpoints of a run, saved at a time."""
    folder.mkdir(parents=True)
    for name in ("last.pt", "previous.pt"):
        (folder / name).write_bytes((run / name).read_bytes())
        os.utime(folder / name, (time, time))


# A new run


def test_a_new_run_gets_the_first_free_folder_of_its_name(here):
    assert run_folder(None, "tiny", None) == Path("runs/tiny")
    for name in ("tiny", "tiny-2", "tiny-4"):
        (here / "runs" / name).mkdir(parents=True)
    assert run_folder(None, "tiny", None) == Path("runs/tiny-3")
    assert choose_folders(None, RECIPE, None, QUIET) == (None, Path("runs/tiny-3"))


def test_a_new_run_uses_the_output_dir_of_its_recipe(here):
    assert choose_folders(here / "out", RECIPE, None, QUIET) == (None, here / "out")
    (here / "out").mkdir()
    assert choose_folders(here / "out", RECIPE, None, QUIET) == (None, here / "out")


@pytest.mark.parametrize("file", ["last.pt", "log.jsonl"])
def test_a_run_is_never_overwritten(here, file):
    (here / file).write_text("")
    with pytest.raises(
        ConfigError, match=rf"^{here}: holds a run already; continue it with --resume {here}, or set an"
    ):
        choose_folders(here, RECIPE, None, QUIET)


# A run that continues


@pytest.mark.parametrize("given", ["", "last.pt"])
def test_a_resumed_run_continues_in_its_folder(here, tiny_run, given):
    saved_run(here / "run", tiny_run, 1)
    earlier = here / "run" / given
    assert choose_folders(None, RECIPE, str(earlier), QUIET) == (earlier, here / "run")
    assert choose_folders(here / "run", RECIPE, str(earlier), QUIET) == (earlier, here / "run")


def test_a_resumed_run_does_not_move_to_another_output_dir(here, tiny_run):
    saved_run(here / "run", tiny_run, 1)
    message = (
        rf"--resume {here}/run: a run continues in its own folder, but output_dir is {here}/other; set output_dir="
    )
    with pytest.raises(ConfigError, match=message):
        choose_folders(here / "other", RECIPE, str(here / "run"), QUIET)


def test_nothing_is_resumed_from_a_folder_that_does_not_exist(here):
    with pytest.raises(
        ConfigError, match=r"--resume none: no such file or folder; give a run's folder or its last\.pt"
    ):
        choose_folders(None, RECIPE, "none", QUIET)


def test_a_run_that_does_not_exist_is_answered_by_those_that_do(here, tiny_run):
    for name, time in (("tiny", 2), ("tiny-2", 3), ("other", 1)):
        saved_run(here / "runs" / name, tiny_run, time)
    (here / "runs/empty").mkdir()
    runs = "runs that can be continued are runs/tiny-2, runs/tiny, runs/other$"
    with pytest.raises(ConfigError, match=rf"--resume runs/tniy: no such file or folder; {runs}"):
        existing_run(Path("runs/tniy"))
    with pytest.raises(ConfigError, match=rf"--resume runs: the folder has no last\.pt, it holds empty, .*; {runs}"):
        existing_run(Path("runs"))
    with pytest.raises(ConfigError, match=rf"--resume runs/empty: the folder has no last\.pt, it is empty; {runs}"):
        existing_run(Path("runs/empty"))


def test_a_run_without_its_recipe_needs_one(here, tiny_run):
    saved_run(here / "run", tiny_run, 1)
    with pytest.raises(ConfigError, match=r"run/config\.yaml: no such file, .*; give the recipe too"):
        recipe_of_run(Path("run"))


# The newest run


def test_auto_is_the_newest_run_of_the_recipe(here, tiny_run):
    for name, time in (("tiny", 2), ("tiny-2", 3), ("tiny-3", 1)):
        saved_run(here / "runs" / name, tiny_run, time)
    assert choose_folders(None, RECIPE, "auto", QUIET) == (Path("runs/tiny-2"),) * 2


def test_auto_is_a_new_run_where_none_has_saved_anything(here):
    (here / "runs/tiny").mkdir(parents=True)
    (here / "runs/tiny/log.jsonl").write_text("")
    assert choose_folders(None, RECIPE, "auto", QUIET) == (None, Path("runs/tiny-2"))
    assert choose_folders(here / "runs/tiny", RECIPE, "auto", QUIET) == (None, here / "runs/tiny")  # of a killed run


def test_auto_leaves_the_runs_of_other_recipes_alone(here, tiny_run):
    for name in ("tiny.yaml", "tiny-320.yaml"):
        (here / name).write_text("")
    for name, time in (("tiny-320", 2), ("tiny-2", 1)):
        saved_run(here / "runs" / name, tiny_run, time)
    assert newest_run(None, RECIPE, QUIET) == Path("runs/tiny-2")
    assert newest_run(None, Path("tiny-320.yaml"), QUIET) == Path("runs/tiny-320")


def test_auto_skips_damaged_runs(tiny_run, tiny_recipe, here, capsys):
    arguments = ["train", str(tiny_recipe), "--device", "cpu", "--resume", "auto"]
    for number, name in enumerate(("tiny", "tiny-2", "tiny-3")):
        folder = here / "runs" / name
        folder.mkdir(parents=True)
        for file in ("last.pt", "previous.pt"):
            content = (tiny_run / file).read_bytes()
            (folder / file).write_bytes(content if name == "tiny" else content[:-100])
            os.utime(folder / file, (number, number))
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "runs/tiny-3/previous.pt: not a weights file, or damaged" in printed
    assert "runs/tiny-2/previous.pt: not a weights file, or damaged" in printed
    assert "resumed from runs/tiny/last.pt after step 6" in printed
    for file in ("last.pt", "previous.pt"):
        (here / "runs/tiny" / file).write_bytes(b"")
    assert main(arguments) == 1
    assert "--resume auto: all checkpoints are damaged" in capsys.readouterr().err
