import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from effdet.config import load_config
from effdet.data.images import read_image
from effdet.errors import TrainingError, WeightsError
from effdet.training.debug.dump import FORMAT, read_dump
from effdet.training.debug.dump_step import dump_step, make_dump, write_dump
from effdet.training.debug.replay import replay
from effdet.training.optim import train_mode
from effdet.training.setup import set_up
from effdet.training.step import compute_gradients, prepare, seed_of_step, train_step

CPU = torch.device("cpu")
QUIET = Console(quiet=True)
SMALL = ("model.image_size=[64, 64]", "model.width=0.25", "model.depth=0.3")


def start(recipe, folder, *overrides):
    """A run before its first step, and its first batch."""
    run, state = set_up(load_config(recipe, overrides), folder, "cpu", QUIET)
    train_mode(state.model, run.frozen)
    return run, state, next(run.task.data.batches(0, 1, pin_memory=False))


def failure(run, state, batch):
    """The message of a step that ends the training."""
    micro_batches, _ = prepare(run, state, batch)
    with pytest.raises(TrainingError) as caught:
        train_step(run, state, micro_batches)
    return str(caught.value)


def spoil(model, name, value=float("nan")):
    with torch.no_grad():
        values = dict(model.named_parameters())[name]
        values[(3, *[0] * (values.ndim - 1))] = value


def report(folder):
    return json.loads((folder / "debug-1" / "report.json").read_text())


def dumped(run, state, batch):
    """Losses and gradient norm of a step without the optimizer's, and its dump."""
    micro_batches, _ = prepare(run, state, batch)
    losses, norm = compute_gradients(run, state, micro_batches)
    metrics = {"learning_rate": 0.0, **losses, "gradient_norm": norm}
    dump_step(run, state, micro_batches, metrics, seed_of_step(run.config.seed, state.step, 0))
    return losses, norm, read_dump(run.folder / f"debug-{state.step + 1}")


# Where it begins


@pytest.mark.parametrize("name", ["backbone.blocks.2.0.conv_pw.weight", "neck.cells.1.nodes.3.conv.depthwise.weight"])
def test_the_layer_with_the_first_nan_is_named(tiny_recipe, tmp_path, name):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL)
    assert name in dict(state.model.named_parameters())
    spoil(state.model, name)
    layer, _, values = name.rpartition(".")
    message = failure(run, state, batch)
    assert f"it begins in layer {layer} (" in message
    assert f"rerun the step with `effdet replay {tmp_path / 'debug-1'}`" in message
    assert "\n" not in message
    source = report(tmp_path)["first_not_finite"]
    assert (source["kind"], source["name"]) == ("layer", layer)
    assert f"NaN or Inf in {values}" in source["detail"]


def test_with_activation_checkpointing_the_layer_is_named_too(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "train.activation_checkpointing=true")
    spoil(state.model, "backbone.blocks.2.0.conv_pw.weight")
    assert "it begins in layer backbone.blocks.2.0.conv_pw (" in failure(run, state, batch)


def test_the_loss_term_is_named_if_the_outputs_are_finite(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "loss.box_weight=1e39")
    assert "it begins in the loss term loss (" in failure(run, state, batch)
    content = report(tmp_path)
    assert content["first_not_finite"]["kind"] == "loss"
    assert content["metrics"]["loss"] == "inf"
    assert content["replayed"]["losses"]["class_loss"] == content["metrics"]["class_loss"]
    assert all(values["not_finite"] == 0 for values in content["outputs"].values())


def test_the_parameter_is_named_if_the_loss_is_finite_and_gradients_are_not(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "loss.box_weight=3e38")
    failure(run, state, batch)
    content = report(tmp_path)
    assert isinstance(content["metrics"]["loss"], float)
    assert content["first_not_finite"]["kind"] == "gradient"
    assert content["first_not_finite"]["name"] in dict(state.model.named_parameters())
    norms = list(content["gradient_norms"].values())
    finite = [isinstance(norm, float) for norm in norms]
    assert finite == sorted(finite)  # NaN and Inf come first
    assert norms[finite.index(True) :] == sorted(norms[finite.index(True) :], reverse=True)


def test_finite_gradients_whose_norm_overflows_are_named_too(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "loss.box_weight=1e25")
    assert "with which the norm of all gradients overflows" in failure(run, state, batch)
    content = report(tmp_path)
    assert content["first_not_finite"]["name"] == next(iter(content["gradient_norms"]))


# What a dump holds


def test_a_dump_has_the_batch_and_the_weights_before_the_step(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL)
    spoil(state.model, "backbone.conv_stem.weight")
    (tmp_path / "debug-1").mkdir()
    (tmp_path / "debug-1" / "old.txt").write_text("of an earlier failure of the same step, which is replaced")
    failure(run, state, batch)
    content = torch.load(tmp_path / "debug-1" / "dump.pt", weights_only=True)
    parameters = dict(state.model.named_parameters())
    assert all(torch.equal(content["weights"][name], value) for name, value in parameters.items() if value.ndim < 2)
    assert content["card"]["config"] == run.config.to_dict()
    dump = read_dump(tmp_path / "debug-1")
    assert torch.equal(dump.images, batch.images)
    restored = run.task.restore_targets(dump.targets, CPU)
    for saved, target in zip(restored, batch.targets, strict=True):
        assert torch.equal(saved.boxes, target.boxes)
        assert torch.equal(saved.labels, target.labels)
        assert (saved.index, saved.size, saved.scale) == (target.index, target.size, target.scale)
    assert dump.files == tuple(run.task.data.file_name(row) for row in batch.indices)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["debug-1"]
    assert sorted(path.name for path in (tmp_path / "debug-1").iterdir()) == ["batch.png", "dump.pt", "report.json"]
    assert read_image(tmp_path / "debug-1" / "batch.png").std() > 10


def test_a_dump_has_the_micro_batches_and_their_normalizer(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "train.accumulation_steps=2")
    micro_batches, _ = prepare(run, state, batch)
    dump = make_dump(run, state, micro_batches, {}, seed=3)
    assert dump.sizes == (2, 2)
    assert dump.normalizer == sum(micro_batch.count for micro_batch in micro_batches)
    assert dump.rows == tuple(row for micro_batch in micro_batches for row in micro_batch.rows)
    assert (dump.seed, dump.step, dump.epoch, dump.process, dump.device) == (3, 0, 0, (0, 1), "cpu")


def test_the_boxes_of_a_batch_are_described(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL, "loss.box_weight=1e39")
    boxes = torch.tensor([[10.0, 10.0, 10.0, 40.0], [70.0, 5.0, 80.0, 9.0], [20.0, 30.0, 26.0, 60.0]])
    targets = (replace(batch.targets[0], boxes=boxes, labels=torch.tensor([0, 5, 2])), *batch.targets[1:])
    failure(run, state, replace(batch, targets=targets))
    content = report(tmp_path)
    count = sum(len(target.boxes) for target in targets)
    assert content["boxes"]["count"] == count
    assert content["boxes"]["without_area"] == 1
    assert content["boxes"]["outside_their_image"] == 1
    assert content["boxes"]["smallest_side"] == 0
    assert content["boxes"]["labels"] == [0, 5]
    assert content["batch"][0] == {
        "file": run.task.data.file_name(batch.indices[0]),
        "image_id": run.task.data.train_table.image_ids[batch.indices[0]],
        "row": batch.indices[0],
        "objects": 3,
        "smallest_side": 0,
    }


def test_if_no_dump_can_be_written_the_message_names_the_layer_all_the_same(tiny_recipe, tmp_path):
    (tmp_path / "file").write_text("")
    run, state, batch = start(tiny_recipe, tmp_path / "file", *SMALL)
    spoil(state.model, "backbone.conv_stem.weight")
    message = failure(run, state, batch)
    assert "it begins in layer backbone.conv_stem" in message
    assert "no debug dump could be written to" in message


# The replay


def test_the_replay_of_a_detectors_step_gives_the_same_losses(tiny_recipe, tmp_path):
    changes = (
        *SMALL,
        "model.drop_path=0.5",
        "train.accumulation_steps=2",
        "train.freeze=[backbone.blocks.0]",
        "loss.iou=giou",
    )
    run, state, batch = start(tiny_recipe, tmp_path, *changes, "loss.positives_momentum=0.9")
    micro_batches, _ = prepare(run, state, batch)
    train_step(run, state, micro_batches)
    losses, norm, dump = dumped(run, state, batch)
    nowhere = {**dump.card.config, "data": {**dump.card.config["data"], "root": "/nowhere"}}
    traced = replay(replace(dump, card=replace(dump.card, config=nowhere)), CPU, None)
    assert traced.finite
    assert traced.source is None
    assert traced.losses == losses
    assert traced.gradient_norm == norm
    assert "backbone.blocks.0.0.conv_pw.weight" in dump.fixed
    assert "backbone.blocks.0.0.conv_pw.weight" not in traced.gradients
    others = [replay(replace(dump, seed=seed), CPU, None).losses for seed in range(4)]  # two may drop the same paths
    assert any(other != losses for other in others)  # the seed is what makes it the same


def test_the_replay_of_a_classifiers_step_gives_the_same_losses(shapes_recipe, tmp_path):
    changes = (
        *SMALL,
        "augment.mixup_alpha=0.2",
        "augment.cutmix_alpha=1",
        "model.dropout=0.5",
        "train.accumulation_steps=2",
    )
    run, state, batch = start(shapes_recipe, tmp_path, *changes)
    losses, norm, dump = dumped(run, state, batch)
    traced = replay(dump, CPU, None)
    assert (traced.losses, traced.gradient_norm) == (losses, norm)
    micro_batches = run.task.prepare(batch, 0)
    assert torch.equal(dump.images, torch.cat([micro_batch.images for micro_batch in micro_batches]))
    assert torch.equal(dump.targets, torch.cat([micro_batch.targets for micro_batch in micro_batches]))
    assert not torch.equal(dump.images, batch.images)


def test_the_layer_of_a_classifier_is_named(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path, *SMALL)
    spoil(state.model, "blocks.1.0.conv_dw.weight")
    assert "it begins in layer blocks.1.0.conv_dw (" in failure(run, state, batch)
    content = report(tmp_path)
    assert content["boxes"] is None
    assert [sum(line["classes"].values()) for line in content["batch"]] == [1.0] * len(batch.images)


def test_a_dump_without_a_replay_is_written_too(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL)
    micro_batches, _ = prepare(run, state, batch)
    write_dump(tmp_path / "debug-1", make_dump(run, state, micro_batches, {}, 0), None)
    content = report(tmp_path)
    assert (content["replayed"], content["first_not_finite"], content["outputs"]) == (None, None, None)
    assert torch.equal(read_dump(tmp_path / "debug-1" / "dump.pt").images, batch.images)


# What is not a dump


def test_other_files_are_not_read_as_dumps(tmp_path):
    with pytest.raises(WeightsError, match=r"debug-7: no debug dump; expected a folder such as runs/NAME/debug-12"):
        read_dump(tmp_path / "debug-7")
    torch.save({"model": {}}, tmp_path / "best.pt")
    with pytest.raises(WeightsError, match=r"best\.pt: not a debug dump"):
        read_dump(tmp_path / "best.pt")
    torch.save({"dump": 99}, tmp_path / "dump.pt")
    with pytest.raises(WeightsError, match="a debug dump of another version of this package"):
        read_dump(tmp_path)
    torch.save({"dump": FORMAT}, tmp_path / "dump.pt")
    with pytest.raises(WeightsError, match="the debug dump is damaged: 'card' is missing"):
        read_dump(tmp_path)
