import pytest
import torch
from rich.console import Console
from torch import nn

from effdet.config import ClassifierConfig, DetectorConfig
from effdet.errors import ConfigError
from effdet.models import ModelOptions, make_spec
from effdet.training.batch_norm import NormPlan, apply_norms, choose_norms, describe_norms
from effdet.training.initial_model import start_of
from effdet.training.optim import freeze, train_mode
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint

LOADED = {"backbone.bn1", "backbone.blocks.0.0.bn1"}
KINDS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def detector():
    return make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 64))).build(2)


def norms_of(model, prefix=""):
    return {name: norm for name, norm in model.named_modules() if isinstance(norm, KINDS) and name.startswith(prefix)}


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))


def outcome(policy, part_size, processes, on_gpu):
    plan = choose_norms(policy, part_size, processes, on_gpu, LOADED)
    return plan.frozen, plan.others


# The choice


@pytest.mark.parametrize(
    ("part_size", "processes", "on_gpu", "loaded", "frozen", "others"),
    [
        (8, 1, False, True, False, "batch"),
        (8, 1, True, False, False, "batch"),
        (7, 1, True, True, True, "batch"),
        (7, 1, True, False, False, "batch"),  # there is nothing to keep
        (1, 1, False, False, False, "batch"),
        (8, 2, True, True, False, "sync"),
        (4, 2, True, True, False, "sync"),
        (1, 8, True, True, False, "sync"),
        (3, 2, True, True, True, "sync"),
        (3, 2, True, False, False, "sync"),
        (4, 2, False, True, True, "batch"),  # CPUs have no statistics over processes
        (8, 2, False, True, False, "batch"),
        (4, 2, False, False, False, "batch"),
    ],
)
def test_auto_trusts_eight_images_and_below_that_the_weights(part_size, processes, on_gpu, loaded, frozen, others):
    plan = choose_norms("auto", part_size, processes, on_gpu, LOADED if loaded else ())
    assert plan.frozen == (LOADED if frozen else frozenset())
    assert plan.others == others


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("part_size", [1, 64])
def test_what_is_asked_for_is_done_whatever_the_batch(part_size, processes):
    assert outcome("batch", part_size, processes, True) == (frozenset(), "batch")
    assert outcome("frozen", part_size, processes, False) == (None, "batch")
    several = "sync" if processes > 1 else "batch"
    assert outcome("sync", part_size, processes, True) == (frozenset(), several)


def test_one_process_alone_synchronises_with_none_on_any_device():
    assert choose_norms("sync", 4, 1, False, ()).others == "batch"


def test_synchronising_cpus_is_refused():
    with pytest.raises(ConfigError, match=r"train\.norms is sync, but .* on GPUs alone; set it to batch"):
        choose_norms("sync", 4, 2, False, ())


def test_frozen_is_every_norm_also_those_that_start_at_random():
    model = detector()
    plan = choose_norms("frozen", 4, 1, False, ())
    assert set(apply_norms(model, plan)) == set(norms_of(model).values())
    assert describe_norms(model, plan) == "batch_norm: frozen (as train.batch_norm says)"


# What is done


def test_frozen_norms_keep_their_statistics_and_train_their_scales():
    model = small()
    kept = apply_norms(model, NormPlan(frozenset({"1"}), "batch", ""))
    train_mode(model, kept)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert {"1.weight", "1.bias", "3.running_mean", "3.running_var"} <= changed
    assert not {"1.running_mean", "1.running_var", "1.num_batches_tracked"} & changed


def test_norms_over_processes_keep_parameters_buffers_names_and_order():
    model = detector()
    state, parameters = model.state_dict(), list(model.parameters())
    frozen = frozenset(norms_of(model, "backbone."))
    kept = apply_norms(model, NormPlan(frozen, "sync", ""))
    assert {name for name, norm in norms_of(model).items() if type(norm) is nn.BatchNorm2d} == frozen
    assert all(type(norm) is nn.SyncBatchNorm for norm in norms_of(model, "neck.").values())
    assert set(map(id, kept)) == set(map(id, norms_of(model, "backbone.").values()))
    assert list(model.state_dict()) == list(state)
    assert all(value.data_ptr() == state[name].data_ptr() for name, value in model.state_dict().items())
    assert all(one is two for one, two in zip(model.parameters(), parameters, strict=True))
    one = norms_of(model, "neck.")["neck.coarser.bn"]
    assert (one.eps, one.momentum) == (1e-3, 0.01)
    apply_norms(model, NormPlan(frozen, "sync", ""))  # once more does no harm


def test_norms_over_processes_evaluate_as_before():
    model, images = detector().eval(), torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        before = model(images)
        apply_norms(model, NormPlan(frozenset(), "sync", ""))
        after = model(images)
    assert not any(norm.training for norm in norms_of(model).values())
    assert before.class_logits.equal(after.class_logits)


def test_norms_of_timm_keep_their_activation():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4))
    apply_norms(model, NormPlan(frozenset(), "sync", ""))
    assert isinstance(model[1], nn.SyncBatchNorm)
    assert isinstance(model[1].act, nn.ReLU)


def test_norms_of_frozen_modules_are_left_alone():
    model = detector()
    freeze(model, ["backbone"])
    assert apply_norms(model, NormPlan(frozenset({"backbone.bn1"}), "sync", "")) == []
    assert all(type(norm) is nn.BatchNorm2d for norm in norms_of(model, "backbone.").values())
    assert type(model.neck.coarser.bn) is nn.SyncBatchNorm


# What is told


def told(model, *choice):
    return describe_norms(model, choose_norms(*choice))


def test_the_line_names_the_parts_and_the_reason():
    model = detector()
    backbone, everything = list(norms_of(model, "backbone.")), list(norms_of(model))
    few = "norms: backbone frozen (4 images at a time, under 8), neck and heads of the batch"
    assert told(model, "auto", 4, 1, False, backbone) == few
    assert told(model, "auto", 1, 1, False, everything) == "batch_norm: frozen (1 image at a time, under 8)"
    assert told(model, "auto", 16, 1, True, everything) == "norms: of the batch (16 images at a time)"
    nothing = "norms: of the batch (1 image at a time, and no statistics came with the weights)"
    assert told(model, "auto", 1, 1, True, ()) == nothing
    many = "norms: over all processes (2 images at a time in each of 8 processes)"
    assert told(model, "auto", 2, 8, True, everything) == many
    assert told(model, "frozen", 16, 1, True, everything) == "batch_norm: frozen (as train.batch_norm says)"
    freeze(model, ["backbone"])
    assert told(model, "auto", 4, 1, False, backbone).startswith("norms: of the batch")
    freeze(model, ["neck", "class_head", "box_head"])
    assert told(model, "auto", 4, 1, False, backbone) == "norms: none is trained"


def test_a_classifier_has_a_backbone_and_a_head():
    model = make_spec(ModelOptions("efficientnet_lite0")).build(2)
    plan = choose_norms("auto", 4, 1, False, [name for name in norms_of(model) if name != "bn2"])
    wanted = "norms: backbone frozen (4 images at a time, under 8), head of the batch"
    assert describe_norms(model, plan) == wanted


# Which statistics came with the weights


def weights_in(path, spec, names):
    model = spec.build(len(names))
    save_checkpoint(path, model.state_dict(), ModelCard(spec, names, tuple(range(len(names)))))
    return str(path)


def start(settings, names=("a", "b")):
    return start_of(settings, names, Console(quiet=True))


def test_statistics_of_a_detector_come_for_all_norms_even_with_new_classes(tmp_path):
    path = weights_in(tmp_path / "w.pt", make_spec(ModelOptions("efficientdet_lite0")), ("x", "y", "z"))
    model, norms, _ = start(DetectorConfig(name="efficientdet_lite0", weights=path))
    assert norms == set(norms_of(model))


def test_statistics_of_a_classifier_come_for_the_backbone(tmp_path):
    path = weights_in(tmp_path / "w.pt", make_spec(ModelOptions("efficientnet_lite0")), ("x", "y", "z"))
    model, norms, _ = start(DetectorConfig(name="efficientdet_lite0", weights=path))
    assert norms == set(norms_of(model, "backbone."))
    model, norms, _ = start(ClassifierConfig(name="efficientnet_lite0", backbone_weights=path))
    assert norms == set(norms_of(model)) - {"bn2"}


def test_random_weights_bring_no_statistics():
    assert start(DetectorConfig(name="efficientdet_lite0")).norms == frozenset()
