"""The package as users install it: the wheel, the recipes in it, its lowest dependencies, and a rival of its name."""

import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").rglob("*.yaml")}
COMMAND = "import sys, efficientdet_torch; sys.exit(efficientdet_torch.main())"
OTHER = "another package named effdet is installed"


def files_of_the_repository():
    """What a wheel is built from: no tests, no build folders."""
    for name in ("effdet", "configs"):
        yield from (
            path for path in (REPOSITORY / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
    for name in ("efficientdet_torch.py", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        yield REPOSITORY / name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the repository with what is installed here."""
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("building needs setuptools 77 or newer")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in files_of_the_repository():
        copy = source / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (source / "tests").mkdir()
    (source / "tests" / "test_nothing.py").touch()
    build = "import setuptools.build_meta as backend; backend.build_wheel({!r})"
    run = [sys.executable, "-c", build.format(str(target))]
    subprocess.run(run, cwd=source, check=True, capture_output=True)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture
def installed(wheel, tmp_path):
    """A folder of packages with the wheel in it."""
    folder = tmp_path / "packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_python(code, *arguments, paths, cwd):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_has_all_recipes_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.removeprefix("effdet/") for name in names if name.endswith(".yaml")} == RECIPES
    assert {"effdet/configs/schema.json", "effdet/py.typed", "effdet/cli/__init__.py"} <= names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"effdet", "efficientdet_torch.py"}


@pytest.mark.parametrize("name", ["lite0", "configs/lite0.yaml", "classification/b0"])
def test_an_installed_package_has_recipes_by_name_outside_the_repository(installed, tmp_path, name):
    code = f"import effdet; print(effdet.__file__)\n{COMMAND}"
    done = run_python(code, "config", name, "train.epochs=7", paths=[installed], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file, text = done.stdout.split("\n", 1)
    assert Path(file).is_relative_to(installed)
    assert "epochs: 7" in text


def test_the_command_starts_outside_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "effdet = efficientdet_torch:main" in archive.read(name).decode()


# PyPI's package effdet


def add_other_package(folder):
    """Files of another package named effdet, as its wheel installs them."""
    (folder / "effdet").mkdir(parents=True, exist_ok=True)
    (folder / "effdet" / "__init__.py").write_text("raise ImportError('needs omegaconf')\n")
    (folder / "effdet-0.4.1.dist-info").mkdir()


def test_a_package_of_the_same_name_installed_later_is_named_by_the_command(installed, tmp_path):
    add_other_package(installed)
    done = run_python(COMMAND, "--version", paths=[installed], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {OTHER}")
    assert "pip uninstall -y effdet efficientdet-torch && pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_package_of_the_same_name_installed_before_is_named_by_command_and_import(installed, tmp_path):
    (installed / "effdet-0.4.1.dist-info").mkdir()
    done = run_python(COMMAND, "--version", paths=[installed], cwd=tmp_path)
    assert done.returncode == 1
    assert OTHER in done.stderr
    done = run_python("import effdet; print(effdet.__version__)", paths=[installed], cwd=tmp_path)
    assert done.returncode == 0
    assert f"RuntimeWarning: {OTHER}" in done.stderr
    assert "pip uninstall" in done.stderr


def test_a_package_of_the_same_name_earlier_on_the_path_is_named_by_the_command(installed, tmp_path):
    add_other_package(tmp_path / "other")
    (tmp_path / "other" / "effdet-0.4.1.dist-info").rmdir()
    done = run_python(COMMAND, "--version", paths=[tmp_path / "other", installed], cwd=tmp_path)
    assert done.returncode == 1
    assert f"another package named effdet, {tmp_path / 'other' / 'effdet'}" in done.stderr


def test_files_that_the_removal_of_another_package_removed_are_named(installed, tmp_path):
    (installed / "effdet" / "__init__.py").unlink()
    done = run_python(COMMAND, "--version", paths=[installed], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: files of efficientdet-torch are missing")


def test_the_package_alone_imports_without_a_warning(installed, tmp_path):
    done = run_python("import effdet", paths=[installed], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = run_python(COMMAND, "--version", paths=[installed], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


# Lowest versions


def test_the_lowest_versions_that_are_tested_are_those_declared():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    declared = dict(text.split(">=") for text in (*project["dependencies"], *optional["timm"], *optional["heic"]))
    lines = (REPOSITORY / "tests" / "minimum.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert tested.keys() == declared.keys()
    for name, lowest in declared.items():
        assert re.fullmatch(rf"{re.escape(lowest)}(\.\d+)*", tested[name]), f"{name}>={lowest}, tested {tested[name]}"
