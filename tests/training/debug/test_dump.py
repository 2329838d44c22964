import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from effdet.config import load_config
from effdet.data.images import read_image
from effdet.errors import TrainingError, WeightsError
from effdet.training.debug.dump import FORMAT, leave_bundle, read_bundle, rerun
from effdet.training.engine import backward, seed_of_step, train_step
from effdet.training.optim import train_mode
from effdet.training.setup import set_up

CPU = torch.device("cpu")
QUIET = Console(quiet=True)
SMALL = ("model.image_size=[64, 64]", "model.width=0.25", "model.depth=0.3")


def start(recipe, folder, *overrides):
    """A run before its first step, and its first batch."""
    run, state = set_up(load_config(recipe, overrides), folder, "cpu", QUIET)
    train_mode(state.model, run.frozen)
    return run, state, next(run.task.batches(0, 1, pin_memory=False))


def failure(run, state, batch):
    """The message of a step that cannot be taken."""
    with pytest.raises(TrainingError) as caught:
        train_step(run, state, batch)
    return str(caught.value)


def spoil(model, name, value=float("nan")):
    with torch.no_grad():
        values = dict(model.named_parameters())[name]
        values[(3, *[0] * (values.ndim - 1))] = value


def report(folder):
    return json.loads((folder / "bundle-1" / "report.json").read_text())


def taken(run, state, batch):
    """Figures of a step forward and backward that is not taken, and its bundle."""
    losses, norm = backward(run, state, batch)
    figures = {"learning_rate": 0.0, **losses, "gradient_norm": norm}
    leave_bundle(run, state, batch, figures, seed_of_step(run.config.seed, state.step, 0))
    return losses, norm, read_bundle(run.folder / f"bundle-{state.step + 1}")


# Where it begins


@pytest.mark.parametrize("name", ["backbone.blocks.2.0.conv_pw.weight", "neck.cells.1.nodes.3.conv.depthwise.weight"])
def test_the_layer_is_named_in_which_the_first_value_is_not_finite(tiny_recipe, tmp_path, name):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL)
    assert name in dict(state.model.named_parameters())
    spoil(state.model, name)
    layer, _, values = name.rpartition(".")
    message = failure(run, state, batch)
    assert f"it begins in layer {layer} (" in message
    assert f"effdet replay {tmp_path / 'bundle-1'}" in message
    assert "\n" not in message
    told = report(tmp_path)["first_not_finite"]
    assert (told["kind"], told["name"]) == ("layer", layer)
    assert f"{values} not finite" in told["detail"]


def test_with_checkpointing_the_layer_is_named_too(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "train.activation_checkpointing=true")
    spoil(state.model, "backbone.blocks.2.0.conv_pw.weight")
    assert "it begins in layer backbone.blocks.2.0.conv_pw (" in failure(run, state, batch)


def test_a_part_of_the_loss_is_named_where_the_outputs_are_finite(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "loss.box_weight=1e39")
    assert "it begins in the loss part loss (" in failure(run, state, batch)
    told = report(tmp_path)
    assert told["first_not_finite"]["kind"] == "loss"
    assert told["figures"]["loss"] == "inf"
    assert told["taken_again"]["losses"]["class_loss"] == told["figures"]["class_loss"]
    assert all(spread["not_finite"] == 0 for spread in told["outputs"].values())


def test_a_parameter_is_named_where_the_loss_is_finite_and_gradients_are_not(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "loss.box_weight=3e38")
    failure(run, state, batch)
    told = report(tmp_path)
    assert isinstance(told["figures"]["loss"], float)
    assert told["first_not_finite"]["kind"] == "gradient"
    assert told["first_not_finite"]["name"] in dict(state.model.named_parameters())
    norms = list(told["gradient_norms"].values())
    finite = [isinstance(norm, float) for norm in norms]
    assert finite == sorted(finite)  # those that are not, first
    assert norms[finite.index(True) :] == sorted(norms[finite.index(True) :], reverse=True)


def test_gradients_that_are_only_too_large_are_told_too(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "loss.box_weight=1e25")
    assert "too large for the norm of all" in failure(run, state, batch)
    told = report(tmp_path)
    assert told["first_not_finite"]["name"] == next(iter(told["gradient_norms"]))


# What a bundle holds


def test_a_bundle_holds_the_batch_and_the_weights_before_the_step(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL)
    spoil(state.model, "backbone.conv_stem.weight")
    (tmp_path / "bundle-1").mkdir()
    (tmp_path / "bundle-1" / "old.txt").write_text("of an earlier failure of the same step, which is replaced")
    failure(run, state, batch)
    content = torch.load(tmp_path / "bundle-1" / "bundle.pt", weights_only=True)
    parameters = dict(state.model.named_parameters())
    assert all(torch.equal(content["weights"][name], value) for name, value in parameters.items() if value.ndim < 2)
    assert content["card"]["config"] == run.config.to_dict()
    bundle = read_bundle(tmp_path / "bundle-1")
    assert torch.equal(bundle.examples.images, batch.images)
    for found, target in zip(bundle.examples.targets, batch.targets, strict=True):
        assert torch.equal(found.boxes, target.boxes)
        assert torch.equal(found.labels, target.labels)
        assert (found.index, found.size, found.scale) == (target.index, target.size, target.scale)
    assert bundle.examples.files == tuple(run.task.file_name(row) for row in batch.indices)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle-1"]
    assert sorted(path.name for path in (tmp_path / "bundle-1").iterdir()) == ["batch.png", "bundle.pt", "report.json"]
    assert read_image(tmp_path / "bundle-1" / "batch.png").std() > 10


def test_the_boxes_of_a_batch_are_described(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "loss.box_weight=1e39")
    boxes = torch.tensor([[10.0, 10.0, 10.0, 40.0], [70.0, 5.0, 80.0, 9.0], [20.0, 30.0, 26.0, 60.0]])
    targets = (replace(batch.targets[0], boxes=boxes, labels=torch.tensor([0, 5, 2])), *batch.targets[1:])
    failure(run, state, replace(batch, targets=targets))
    told = report(tmp_path)
    count = sum(len(target.boxes) for target in targets)
    assert told["boxes"]["count"] == count
    assert told["boxes"]["without_area"] == 1
    assert told["boxes"]["outside_their_image"] == 1
    assert told["boxes"]["smallest_side"] == 0
    assert told["boxes"]["labels"] == [0, 5]
    assert told["batch"][0] == {
        "file": run.task.file_name(batch.indices[0]),
        "image_id": run.task.train_table.image_ids[batch.indices[0]],
        "row": batch.indices[0],
        "objects": 3,
        "smallest_side": 0,
    }


def test_where_no_bundle_can_be_written_the_error_is_told_all_the_same(tiny_recipe, tmp_path):
    (tmp_path / "file").write_text("")
    run, state, batch = start(tiny_recipe, tmp_path / "file", *SMALL)
    spoil(state.model, "backbone.conv_stem.weight")
    message = failure(run, state, batch)
    assert "it begins in layer backbone.conv_stem" in message
    assert "no bundle could be written to" in message


# The step again


def test_a_detectors_step_taken_again_gives_the_same_figures(tiny_recipe, tmp_path):
    changes = (
        *SMALL,
        "model.drop_path=0.5",
        "train.accumulation_steps=2",
        "train.freeze=[backbone.blocks.0]",
        "loss.iou=giou",
    )
    run, state, batch = start(tiny_recipe, tmp_path, *changes, "loss.positives_momentum=0.9")
    train_step(run, state, batch)
    losses, norm, bundle = taken(run, state, batch)
    nowhere = {**bundle.card.config, "data": {**bundle.card.config["data"], "root": "/nowhere"}}
    findings = rerun(replace(bundle, card=replace(bundle.card, config=nowhere)), CPU, None)
    assert findings.finite
    assert findings.origin is None
    assert findings.losses == losses
    assert findings.gradient_norm == norm
    assert "backbone.blocks.0.0.conv_pw.weight" in bundle.fixed
    assert "backbone.blocks.0.0.conv_pw.weight" not in findings.gradients
    others = [rerun(replace(bundle, seed=seed), CPU, None).losses for seed in range(4)]  # two may drop the same paths
    assert any(other != losses for other in others)  # the seed is what makes it the same


def test_a_classifiers_step_taken_again_gives_the_same_figures(shapes_recipe, tmp_path):
    changes = (
        *SMALL,
        "augment.mixup_alpha=0.2",
        "augment.cutmix_alpha=1",
        "model.dropout=0.5",
        "train.accumulation_steps=2",
    )
    run, state, batch = start(shapes_recipe, tmp_path, *changes)
    losses, norm, bundle = taken(run, state, batch)
    findings = rerun(bundle, CPU, None)
    assert (findings.losses, findings.gradient_norm) == (losses, norm)
    images, shares = run.task.mixed(batch, 0, 0)
    assert torch.equal(bundle.examples.images, images)
    assert torch.equal(bundle.examples.shares, shares)
    assert not torch.equal(images, batch.images)


def test_a_classifiers_layer_is_named(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path, *SMALL)
    spoil(state.model, "blocks.1.0.conv_dw.weight")
    assert "it begins in layer blocks.1.0.conv_dw (" in failure(run, state, batch)
    told = report(tmp_path)
    assert told["boxes"] is None
    assert [sum(line["classes"].values()) for line in told["batch"]] == [1.0] * len(batch.images)


# What is no bundle


def test_other_files_are_not_taken_for_bundles(tmp_path):
    with pytest.raises(WeightsError, match=r"bundle-7: no bundle; expected a folder such as runs/NAME/bundle-12"):
        read_bundle(tmp_path / "bundle-7")
    torch.save({"model": {}}, tmp_path / "best.pt")
    with pytest.raises(WeightsError, match=r"best\.pt: not a bundle"):
        read_bundle(tmp_path / "best.pt")
    torch.save({"bundle": 99}, tmp_path / "bundle.pt")
    with pytest.raises(WeightsError, match="a bundle of another version of this package"):
        read_bundle(tmp_path)
    torch.save({"bundle": FORMAT}, tmp_path / "bundle.pt")
    with pytest.raises(WeightsError, match="the bundle is damaged"):
        read_bundle(tmp_path)
