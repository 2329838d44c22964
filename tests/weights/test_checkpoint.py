import os
import pickle
import random
import stat
from dataclasses import replace

import pytest
import torch

from effdet.errors import WeightsError
from effdet.models import build_efficientdet
from effdet.weights import card_of, checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = build_efficientdet(
        "efficientdet_lite0",
        2,
        image_size=(64, 96),
        padding="symmetric",
        anchor_scale=2.5,
        anchor_aspects=((1.0, 1.0), (2.0, 0.5)),
        mean=(1.0, 2.0, 3.0),
        std=(4.0, 5.0, 6.0),
    )
    made.train()(torch.randint(0, 256, (2, 3, 64, 96)))  # norms that are not as they start
    return made.eval()


@pytest.fixture(scope="module")
def card(model):
    return card_of(model, "efficientdet_lite0", ("cat", "dog"), (3, 7), "symmetric")


@pytest.fixture
def path(tmp_path, model, card):
    save_checkpoint(tmp_path / "best.pt", model.state_dict(), card)
    return tmp_path / "best.pt"


def test_a_checkpoint_gives_the_same_outputs_after_a_round_trip(path, model, card):
    loaded = load_checkpoint(str(path))
    assert loaded.card == card
    assert loaded.training == {}
    assert not loaded.model.training
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        for given, expected in zip(loaded.model(images), model(images), strict=True):
            assert given.equal(expected)


def test_the_card_tells_how_the_model_was_built(card):
    assert (card.name, card.class_names, card.category_ids) == ("efficientdet_lite0", ("cat", "dog"), (3, 7))
    assert (card.image_size, card.padding, card.anchor_scale) == ((64, 96), "symmetric", 2.5)
    assert card.anchor_aspects == ((1.0, 1.0), (2.0, 0.5))
    assert (card.mean, card.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


def test_everything_on_the_card_comes_back(tmp_path, model, card):
    full = replace(
        card,
        postprocess={"iou_threshold": 0.4},
        metrics={"AP": 0.5},
        config={"a": {"b": [1, None]}},
        versions={"x": "1"},
    )
    save_checkpoint(tmp_path / "full.pt", model.state_dict(), full)
    assert load_checkpoint(tmp_path / "full.pt").card == full


def test_the_state_of_the_training_comes_back(tmp_path, model, card):
    training = {"step": 3, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}}
    save_checkpoint(tmp_path / "last.pt", model.state_dict(), card, training)
    loaded = load_checkpoint(tmp_path / "last.pt").training
    assert loaded["step"] == 3
    assert loaded["optimizer"]["state"][0]["momentum"].tolist() == [1, 1]


# Writing


def test_folders_are_made_and_nothing_else_is_left_in_them(tmp_path, model, card):
    save_checkpoint(tmp_path / "runs" / "a" / "best.pt", model.state_dict(), card)
    assert os.listdir(tmp_path / "runs" / "a") == ["best.pt"]


def test_a_checkpoint_has_the_permissions_of_any_new_file(path):
    plain = path.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_failure_while_writing_leaves_the_old_file_and_no_other(path, model, card, monkeypatch):
    before = path.read_bytes()

    def half(content, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(WeightsError, match="No space left"):
        save_checkpoint(path, model.state_dict(), card)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_checkpoint_replaces_the_one_before(path, model, card):
    save_checkpoint(path, model.state_dict(), replace(card, metrics={"AP": 0.25}))
    assert load_checkpoint(path).card.metrics == {"AP": 0.25}


# What is refused


def refusal(path):
    with pytest.raises(WeightsError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_a_missing_file_is_refused(tmp_path):
    assert "no such weights file" in refusal(tmp_path / "none.pt")


def test_a_folder_is_refused(tmp_path):
    assert "no such weights file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"<!DOCTYPE html>\n<html><body>Not Found</body></html>",
        b"PK\x03\x04",
        b"\x80\x02",
        bytes(range(256)) * 9,
    ],
    ids=["empty", "text", "html", "zip", "pickle", "bytes"],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    assert "not a weights file, or damaged" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_half_a_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "not a weights file, or damaged" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_refused_or_read_but_never_give_another_error(tmp_path, zipped):
    path, rng = tmp_path / "x.pt", random.Random(0)
    torch.save({"a": torch.zeros(20), "b": {"c": [1, "x"]}}, path, _use_new_zipfile_serialization=zipped)
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(3):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            checkpoint.read_tensors(path)
        except WeightsError:
            refused += 1
    assert refused > 50


class Mischief:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize(
    "save",
    [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))],
    ids=["torch", "pickle"],
)
def test_code_in_a_file_is_never_run(tmp_path, save):
    save({"model": Mischief(tmp_path / "ran")}, tmp_path / "x.pt")
    assert "not a weights file, or damaged" in refusal(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    assert "not a weights file" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize(("content", "kind"), [([torch.zeros(1)], "list"), (torch.zeros(1), "Tensor"), (3, "int")])
def test_a_file_of_something_else_than_a_dictionary_is_refused(tmp_path, content, kind):
    torch.save(content, tmp_path / "x.pt")
    assert f"holds a {kind}; expected a state dict or a checkpoint" in refusal(tmp_path / "x.pt")


def test_bare_weights_are_refused_for_want_of_a_card(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "x.pt")
    assert "no model card" in refusal(tmp_path / "x.pt")


def changed(path, **changes):
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)
    return content


def test_a_file_of_a_newer_format_is_refused(path):
    changed(path, format=99)
    assert "newer version" in refusal(path)


def test_weights_that_do_not_fit_their_card_are_refused(path):
    content = changed(path)
    changed(path, card={**content["card"], "class_names": ("a", "b", "c")})
    assert "do not fit their own card" in refusal(path)


def test_a_card_with_other_entries_is_refused(path):
    content = changed(path)
    changed(path, card={**content["card"], "colour": "red"})
    assert "card" in refusal(path)
    changed(path, card={"name": "efficientdet_lite0"})
    assert "card" in refusal(path)
