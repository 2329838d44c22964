import itertools
import math

import pytest
import torch
from torch import nn

from effdet.config import OptimConfig, TrainConfig, make_config
from effdet.errors import ConfigError
from effdet.models import ModelOptions, make_spec
from effdet.training.optim import (
    Schedule,
    freeze,
    lr_multipliers,
    make_optimizer,
    make_schedule,
    set_learning_rate,
    train_mode,
)


@pytest.fixture(scope="module")
def detector():
    return make_spec(ModelOptions("efficientdet_d0", image_size=(128, 128))).build(3)


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


# Schedule


def test_the_warm_up_is_linear_and_ends_at_the_peak():
    schedule = Schedule(peak=0.08, start=0.008, warmup_steps=10, total_steps=100, steps_per_epoch=10)
    rates = [schedule.learning_rate(step) for step in range(11)]
    assert rates[0] == 0.008
    assert rates[10] == pytest.approx(0.08)
    steps = [after - before for before, after in itertools.pairwise(rates)]
    assert steps == pytest.approx([0.0072] * 10)


def test_the_learning_rate_falls_along_a_cosine_to_nearly_zero():
    schedule = Schedule(peak=0.08, start=0.008, warmup_steps=10, total_steps=110, steps_per_epoch=10)
    rates = [schedule.learning_rate(step) for step in range(10, 110)]
    assert rates == pytest.approx([0.04 * (1 + math.cos(math.pi * step / 100)) for step in range(100)])
    assert rates == sorted(rates, reverse=True)
    assert rates[50] == pytest.approx(0.04)
    assert 0 < rates[-1] < 1e-4


def test_without_warm_up_the_first_step_has_the_peak():
    schedule = Schedule(peak=0.1, start=0.01, warmup_steps=0, total_steps=4, steps_per_epoch=2)
    assert schedule.learning_rate(0) == pytest.approx(0.1)


@pytest.mark.parametrize(("images", "batch", "every"), [(640, 64, 2.4), (100, 16, 2.4), (12, 4, 0.5)])
def test_the_exponential_learning_rate_falls_by_its_factor_every_few_epochs_from_the_first_step(images, batch, every):
    optim = OptimConfig(
        schedule="exponential", learning_rate=0.016, decay_factor=0.97, decay_epochs=every, warmup_epochs=2
    )
    schedule = make_schedule(optim, TrainConfig(batch_size=batch, epochs=12), num_images=images)
    peak, per_epoch = 0.016 * batch / 64, images // batch
    for step in range(12 * per_epoch):
        if step < 2 * per_epoch:
            wanted = peak * (0.1 + 0.9 * step / (2 * per_epoch))
        else:
            wanted = peak * 0.97 ** math.floor(step / per_epoch / every + 1e-9)
        assert schedule.learning_rate(step) == pytest.approx(wanted, rel=1e-12), step


def test_a_run_of_one_step_has_a_learning_rate():
    assert Schedule(0.1, 0.01, 0, 1, 1).learning_rate(0) == pytest.approx(0.1)
    assert Schedule(0.1, 0.01, 1, 1, 1).learning_rate(0) == pytest.approx(0.01)


@pytest.mark.parametrize(("batch", "peak"), [(64, 0.08), (128, 0.16), (16, 0.02)])
def test_the_learning_rate_is_scaled_by_the_batch_size(batch, peak):
    schedule = make_schedule(OptimConfig(), TrainConfig(batch_size=batch, epochs=3), num_images=640)
    assert schedule.peak == pytest.approx(peak)
    assert schedule.start == pytest.approx(peak / 10)
    assert schedule.steps_per_epoch == schedule.warmup_steps == 640 // batch
    assert schedule.total_steps == 3 * (640 // batch)


def test_without_a_base_batch_size_the_learning_rate_is_not_scaled():
    schedule = make_schedule(OptimConfig(learning_rate=3e-3, base_batch_size=None), TrainConfig(batch_size=8), 80)
    assert schedule.peak == 3e-3


def test_the_schedule_ends_after_max_steps():
    schedule = make_schedule(OptimConfig(), TrainConfig(batch_size=4, epochs=10, max_steps=7), num_images=12)
    assert (schedule.total_steps, schedule.steps_per_epoch) == (7, 3)
    assert make_schedule(OptimConfig(), TrainConfig(batch_size=4, epochs=2, max_steps=99), 12).total_steps == 6


def test_a_warm_up_is_never_longer_than_the_run():
    schedule = make_schedule(OptimConfig(warmup_epochs=5), TrainConfig(batch_size=4, epochs=2), num_images=12)
    assert schedule.warmup_steps == schedule.total_steps == 6
    rates = [schedule.learning_rate(step) for step in range(6)]
    assert rates == sorted(rates)


def test_a_data_set_smaller_than_a_batch_has_one_step_per_epoch():
    assert make_schedule(OptimConfig(), TrainConfig(batch_size=64, epochs=5), num_images=3).total_steps == 5


# Optimizer


def test_batch_norm_biases_and_fusion_weights_have_no_weight_decay(detector):
    decayed, kept = make_optimizer(detector, OptimConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    scales = {f"{name}.weight" for name, module in detector.named_modules() if isinstance(module, nn.BatchNorm2d)}
    kernels = {
        f"{name}.weight" for name, module in detector.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    assert {names[id(parameter)] for parameter in decayed["params"]} == kernels
    rest = {names[id(parameter)] for parameter in kept["params"]}
    assert scales <= rest
    assert rest | kernels == set(names.values())
    assert any(name.startswith("neck.") and name not in scales and not name.endswith(".bias") for name in rest)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_a_step_is_that_of_the_plain_formula(name):
    torch.manual_seed(0)
    model, config = small(), OptimConfig(name=name, learning_rate=0.1, momentum=0.8, weight_decay=0.01)
    optimizer = make_optimizer(model, config)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    gradients = {key: value.grad.clone() for key, value in model.named_parameters()}
    optimizer.step()
    for key, value in model.named_parameters():
        decay = 0.01 if value.ndim > 1 else 0.0
        if name == "sgd":
            wanted = before[key] - 0.1 * (gradients[key] + decay * before[key])
        elif name == "rmsprop":
            gradient = gradients[key] + decay * before[key]
            wanted = before[key] - 0.1 * gradient / (0.9 + 0.1 * gradient**2 + 1e-3).sqrt()
        else:
            wanted = before[key] * (1 - 0.1 * decay) - 0.1 * gradients[key] / (gradients[key].abs() + 1e-8)
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)


# Multipliers of the learning rate


def groups_in(optimizer, model):
    """Multiplier and weight decay of every trained parameter, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["rate"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_without_multipliers_all_weights_have_the_same_learning_rate_in_two_groups(detector):
    optimizer = make_optimizer(detector, OptimConfig(learning_rate=0.3))
    assert [(group["rate"], group["lr"]) for group in optimizer.param_groups] == [(1.0, 0.3)] * 2


def test_the_multiplier_of_the_innermost_module_counts(detector):
    config = OptimConfig(lr_multipliers={"backbone.blocks.0": 0.01, "backbone": 0.1, "neck": 2.0}, weight_decay=0.5)
    groups = groups_in(make_optimizer(detector, config), detector)
    assert groups.keys() == dict(detector.named_parameters()).keys()
    for name, (rate, decay) in groups.items():
        factor = {"backbone": 0.1, "neck": 2.0}.get(name.split(".")[0], 1.0)
        assert rate == (0.01 if name.startswith("backbone.blocks.0.") else factor), name
        assert decay == (0.5 if detector.get_parameter(name).ndim > 1 else 0.0), name


def test_a_module_is_named_in_full_not_by_its_first_letters():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 2)})
    assert lr_multipliers(model, {"a": 0.5}) == {"a.weight": 0.5, "a.bias": 0.5, "ab.weight": 1.0, "ab.bias": 1.0}


def test_layers_of_a_detector_go_from_its_heads_to_its_stem(detector):
    layers = detector.layer_groups()
    stages = [[f"backbone.blocks.{stage}"] for stage in reversed(range(7))]
    stem = ["backbone.conv_stem", "backbone.bn1"]
    assert layers == [["box_head", "class_head"], ["neck"], *stages, stem]
    rates = lr_multipliers(detector, {}, 0.5)
    for name in rates:
        owners = [
            steps for steps, layer in enumerate(layers) if name.startswith(tuple(f"{module}." for module in layer))
        ]
        assert [rates[name]] == [0.5**steps for steps in owners], name


def test_layers_of_a_classifier_go_from_its_head_to_its_stem():
    model = make_spec(ModelOptions("efficientnet_lite0")).build(3)
    rates = lr_multipliers(model, {}, 0.5)
    assert {rates[f"{name}.weight"] for name in ("classifier", "bn2", "conv_head")} == {1.0}
    assert rates["blocks.6.0.bn1.weight"] == 0.5
    assert rates["blocks.0.0.bn1.weight"] == 0.5**7
    assert rates["conv_stem.weight"] == rates["bn1.weight"] == 0.5**8


def test_modules_of_a_timm_backbone_are_layers():
    pytest.importorskip("timm")
    model = make_spec(ModelOptions("efficientdet_d0", backbone="timm/test_resnet", image_size=(64, 64))).build(2)
    modules = ["layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    assert model.layer_groups()[2:] == [[f"backbone.net.{module}"] for module in modules]
    rates = lr_multipliers(model, {}, 0.5)
    assert all(rate < 0.5 for name, rate in rates.items() if name.startswith("backbone."))


def test_multipliers_of_modules_and_layers_are_multiplied(detector):
    rates = lr_multipliers(detector, {"backbone": 0.1, "class_head": 3.0}, 0.5)
    assert rates["backbone.conv_stem.weight"] == pytest.approx(0.1 * 0.5**9)
    assert rates["backbone.blocks.6.0.bn1.weight"] == pytest.approx(0.1 * 0.5**2)
    assert rates["neck.coarser.conv.weight"] == 0.5
    assert rates["class_head.predict.pointwise.bias"] == 3.0


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_a_multiplier_acts_as_a_smaller_learning_rate(name):
    torch.manual_seed(0)
    model, images = small().eval(), torch.randn(2, 3, 8, 8)
    start, ended = {key: value.clone() for key, value in model.state_dict().items()}, []
    for multipliers, learning_rate in (({"0": 0.25}, 0.02), ({}, 0.005)):
        model.load_state_dict(start)
        optimizer = make_optimizer(model, OptimConfig(name=name, lr_multipliers=multipliers, weight_decay=0.1))
        set_learning_rate(optimizer, learning_rate)
        model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        ended.append({key: value.clone() for key, value in model.state_dict().items()})
    one, other = ended
    torch.testing.assert_close(one["0.weight"], other["0.weight"])
    torch.testing.assert_close(one["0.bias"], other["0.bias"])
    assert not torch.allclose(one["2.weight"], other["2.weight"])


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_multipliers_stay_when_a_state_is_loaded(name, tmp_path):
    model = small()
    config = OptimConfig(name=name, lr_multipliers={"0": 0.1})
    optimizer = make_optimizer(model, config)
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = make_optimizer(model, config)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    set_learning_rate(other, 0.5)
    assert [group["rate"] for group in other.param_groups] == [1.0, 1.0, 0.1, 0.1]
    assert [group["lr"] for group in other.param_groups] == [0.5, 0.5, 0.05, 0.05]


def test_frozen_modules_are_in_no_group(detector):
    freeze(detector, ["backbone", "neck"])
    config = OptimConfig(lr_multipliers={"backbone": 0.1}, layer_decay=0.9)
    groups = groups_in(make_optimizer(detector, config), detector)
    assert {name.split(".")[0] for name in groups} == {"class_head", "box_head"}
    assert {rate for rate, _ in groups.values()} == {1.0}
    detector.requires_grad_(True)


@pytest.mark.parametrize(("name", "hint"), [("backbon", "backbone"), ("backbone.block.0", r"backbone\.blocks\.0")])
def test_a_multiplier_of_an_unknown_module_is_refused_with_similar_names(detector, name, hint):
    message = rf"optim\.lr_multipliers: the model has no module '{name}'; similar names are .*{hint}"
    with pytest.raises(ConfigError, match=message):
        make_optimizer(detector, OptimConfig(lr_multipliers={name: 0.1}))


@pytest.mark.parametrize(
    "key", ["lr_multipliers={backbone: 0}", "lr_multipliers={backbone: -1}", "layer_decay=0", "layer_decay=1.1"]
)
def test_multipliers_out_of_range_are_refused(key):
    with pytest.raises(ConfigError, match=rf"'optim\.{key.partition('=')[0]}"):
        make_config({}, [f"optim.{key}"])


# Frozen modules


def test_frozen_modules_keep_weights_and_statistics():
    model = small()
    frozen = freeze(model, ["0", "1"])
    optimizer = make_optimizer(model, OptimConfig(learning_rate=1.0))
    train_mode(model, frozen)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"2.weight", "2.bias"}


def test_all_others_are_in_training_mode(detector):
    frozen = freeze(detector, ["backbone.blocks.0"])
    train_mode(detector, frozen)
    assert not any(module.training for module in detector.backbone.blocks[0].modules())
    assert detector.backbone.blocks[1].training
    assert detector.neck.training
    detector.requires_grad_(True)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("backbon", "backbone"), ("backbone.block.0", r"backbone\.blocks\.0"), ("fpn", "neck"), ("", "backbone")],
)
def test_an_unknown_module_is_refused_with_similar_names(detector, name, hint):
    message = rf"train\.freeze: the model has no module '{name}'; similar names are .*{hint}"
    with pytest.raises(ConfigError, match=message):
        freeze(detector, [name])


def test_freezing_everything_is_refused():
    model = small()
    freeze(model, ["0", "1", "2"])
    with pytest.raises(ConfigError, match=r"train\.freeze leaves nothing to train; name fewer modules"):
        make_optimizer(model, OptimConfig())
