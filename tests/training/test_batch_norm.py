import pytest
import torch
from rich.console import Console
from torch import nn

from effdet.config import ClassifierConfig, DetectorConfig
from effdet.errors import ConfigError
from effdet.models import ModelOptions, make_spec
from effdet.training.batch_norm import (
    BatchNormPlan,
    apply_batch_norm,
    describe_batch_norm,
    plan_batch_norm,
    uses_batch_statistics,
)
from effdet.training.initial_model import initial_model
from effdet.training.optim import freeze, train_mode
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint

LOADED = {"backbone.bn1", "backbone.blocks.0.0.bn1"}
KINDS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def detector():
    return make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 64))).build(2)


def layers_of(model, prefix=""):
    """BatchNorm layers by name."""
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, KINDS) and name.startswith(prefix)
    }


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))


def outcome(mode, per_forward, processes, on_gpu):
    plan = plan_batch_norm(mode, per_forward, processes, on_gpu, LOADED)
    return plan.frozen, plan.others


# The plan


@pytest.mark.parametrize(
    ("per_forward", "processes", "on_gpu", "loaded", "frozen", "others"),
    [
        (8, 1, False, True, False, "batch"),
        (8, 1, True, False, False, "batch"),
        (7, 1, True, True, True, "batch"),
        (7, 1, True, False, False, "batch"),  # no layer has statistics to keep
        (1, 1, False, False, False, "batch"),
        (8, 2, True, True, False, "sync"),
        (4, 2, True, True, False, "sync"),
        (1, 8, True, True, False, "sync"),
        (3, 2, True, True, True, "sync"),
        (3, 2, True, False, False, "sync"),
        (4, 2, False, True, True, "batch"),  # SyncBatchNorm needs GPUs
        (8, 2, False, True, False, "batch"),
        (4, 2, False, False, False, "batch"),
    ],
)
def test_auto_uses_batch_statistics_from_8_images_and_below_freezes_loaded_layers(
    per_forward, processes, on_gpu, loaded, frozen, others
):
    plan = plan_batch_norm("auto", per_forward, processes, on_gpu, LOADED if loaded else ())
    assert plan.frozen == (LOADED if frozen else frozenset())
    assert plan.others == others


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("per_forward", [1, 64])
def test_other_modes_do_not_depend_on_the_batch_size(per_forward, processes):
    assert outcome("batch", per_forward, processes, True) == (frozenset(), "batch")
    assert outcome("frozen", per_forward, processes, False) == (None, "batch")
    several = "sync" if processes > 1 else "batch"
    assert outcome("sync", per_forward, processes, True) == (frozenset(), several)


def test_sync_in_a_single_process_means_batch_statistics_on_any_device():
    assert plan_batch_norm("sync", 4, 1, False, ()).others == "batch"


def test_sync_over_several_processes_on_cpus_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch_norm is sync, but SyncBatchNorm needs GPUs; set train\.batch"):
        plan_batch_norm("sync", 4, 2, False, ())


def test_frozen_freezes_new_layers_too():
    model = detector()
    plan = plan_batch_norm("frozen", 4, 1, False, ())
    assert set(apply_batch_norm(model, plan)) == set(layers_of(model).values())
    assert describe_batch_norm(model, plan) == "BatchNorm: frozen (train.batch_norm=frozen)"


def test_batch_statistics_are_used_unless_all_trained_layers_are_frozen_or_synchronized():
    model = detector()
    backbone = frozenset(layers_of(model, "backbone."))
    everything = frozenset(layers_of(model))
    for frozen, others, used in (
        (frozenset(), "batch", True),
        (backbone, "batch", True),
        (everything, "batch", False),
        (None, "batch", False),
        (frozenset(), "sync", False),
    ):
        assert uses_batch_statistics(model, BatchNormPlan(frozen, others, "")) == used
    freeze(model, ["neck", "class_head", "box_head"])
    assert not uses_batch_statistics(model, BatchNormPlan(backbone, "batch", ""))


# What is done


def test_frozen_layers_keep_their_statistics_and_train_their_scales():
    model = small()
    frozen = apply_batch_norm(model, BatchNormPlan(frozenset({"1"}), "batch", ""))
    train_mode(model, frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert {"1.weight", "1.bias", "3.running_mean", "3.running_var"} <= changed
    assert not {"1.running_mean", "1.running_var", "1.num_batches_tracked"} & changed


def test_sync_batch_norm_keeps_parameters_buffers_names_and_order():
    model = detector()
    state, parameters = model.state_dict(), list(model.parameters())
    frozen = frozenset(layers_of(model, "backbone."))
    layers = apply_batch_norm(model, BatchNormPlan(frozen, "sync", ""))
    assert {name for name, layer in layers_of(model).items() if type(layer) is nn.BatchNorm2d} == frozen
    assert all(type(layer) is nn.SyncBatchNorm for layer in layers_of(model, "neck.").values())
    assert set(map(id, layers)) == set(map(id, layers_of(model, "backbone.").values()))
    assert list(model.state_dict()) == list(state)
    assert all(value.data_ptr() == state[name].data_ptr() for name, value in model.state_dict().items())
    assert all(one is two for one, two in zip(model.parameters(), parameters, strict=True))
    one = layers_of(model, "neck.")["neck.coarser.bn"]
    assert (one.eps, one.momentum) == (1e-3, 0.01)
    apply_batch_norm(model, BatchNormPlan(frozen, "sync", ""))  # a second time changes nothing


def test_sync_batch_norm_evaluates_as_batch_norm_does():
    model, images = detector().eval(), torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        before = model(images)
        apply_batch_norm(model, BatchNormPlan(frozenset(), "sync", ""))
        after = model(images)
    assert not any(layer.training for layer in layers_of(model).values())
    assert before.class_logits.equal(after.class_logits)


def test_batch_norm_layers_of_timm_keep_their_activation():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4))
    apply_batch_norm(model, BatchNormPlan(frozenset(), "sync", ""))
    assert isinstance(model[1], nn.SyncBatchNorm)
    assert isinstance(model[1].act, nn.ReLU)


def test_layers_of_frozen_modules_are_left_alone():
    model = detector()
    freeze(model, ["backbone"])
    assert apply_batch_norm(model, BatchNormPlan(frozenset({"backbone.bn1"}), "sync", "")) == []
    assert all(type(layer) is nn.BatchNorm2d for layer in layers_of(model, "backbone.").values())
    assert type(model.neck.coarser.bn) is nn.SyncBatchNorm


# What is printed


def description(model, *arguments):
    return describe_batch_norm(model, plan_batch_norm(*arguments))


def test_the_printed_line_names_the_modules_and_the_reason():
    model = detector()
    backbone, everything = list(layers_of(model, "backbone.")), list(layers_of(model))
    few = "BatchNorm: backbone frozen (4 images per forward pass, fewer than 8), neck and heads with batch statistics"
    assert description(model, "auto", 4, 1, False, backbone) == few
    single = "BatchNorm: frozen (1 image per forward pass, fewer than 8)"
    assert description(model, "auto", 1, 1, False, everything) == single
    enough = "BatchNorm: batch statistics (16 images per forward pass)"
    assert description(model, "auto", 16, 1, True, everything) == enough
    nothing = "BatchNorm: batch statistics (1 image per forward pass, and no statistics were loaded)"
    assert description(model, "auto", 1, 1, True, ()) == nothing
    many = "BatchNorm: SyncBatchNorm (2 images per forward pass on each of 8 GPUs)"
    assert description(model, "auto", 2, 8, True, everything) == many
    asked = "BatchNorm: frozen (train.batch_norm=frozen)"
    assert description(model, "frozen", 16, 1, True, everything) == asked
    freeze(model, ["backbone"])
    assert description(model, "auto", 4, 1, False, backbone).startswith("BatchNorm: batch statistics")
    freeze(model, ["neck", "class_head", "box_head"])
    assert description(model, "auto", 4, 1, False, backbone) == "BatchNorm: no layer is trained"


def test_a_classifier_has_a_backbone_and_a_head():
    model = make_spec(ModelOptions("efficientnet_lite0")).build(2)
    plan = plan_batch_norm("auto", 4, 1, False, [name for name in layers_of(model) if name != "bn2"])
    expected = "BatchNorm: backbone frozen (4 images per forward pass, fewer than 8), head with batch statistics"
    assert describe_batch_norm(model, plan) == expected


# Which statistics were loaded with the weights


def weights_in(path, spec, names):
    model = spec.build(len(names))
    save_checkpoint(path, model.state_dict(), ModelCard(spec, names, tuple(range(len(names)))))
    return str(path)


def start(settings, names=("a", "b")):
    return initial_model(settings, names, Console(quiet=True))


def test_a_detectors_weights_have_statistics_for_all_layers_even_with_other_classes(tmp_path):
    path = weights_in(tmp_path / "w.pt", make_spec(ModelOptions("efficientdet_lite0")), ("x", "y", "z"))
    model, loaded, new_head = start(DetectorConfig(name="efficientdet_lite0", weights=path))
    assert loaded == set(layers_of(model))
    assert not new_head  # all but the last layer of the class head was loaded


def test_a_classifiers_weights_have_statistics_for_the_backbone(tmp_path):
    path = weights_in(tmp_path / "w.pt", make_spec(ModelOptions("efficientnet_lite0")), ("x", "y", "z"))
    model, loaded, new_head = start(DetectorConfig(name="efficientdet_lite0", weights=path))
    assert loaded == set(layers_of(model, "backbone."))
    assert new_head
    model, loaded, new_head = start(ClassifierConfig(name="efficientnet_lite0", backbone_weights=path))
    assert loaded == set(layers_of(model)) - {"bn2"}
    assert new_head


def test_random_weights_have_no_statistics():
    assert start(DetectorConfig(name="efficientdet_lite0"))[1:] == (frozenset(), True)
