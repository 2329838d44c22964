import torch
from torch import nn

from effdet.training.ema import ExponentialMovingAverage


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3))


def walk(model):
    """Moves weights and statistics at random."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.train()(torch.randn(2, 3, 8, 8))


def test_the_average_is_that_of_a_slow_loop():
    model, decay = network(), 0.6
    ema = ExponentialMovingAverage(model, decay)
    wanted = {key: value.double() for key, value in model.state_dict().items()}
    for step in range(20):
        walk(model)
        ema.update(model, step)
        effective = min(decay, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            wanted[key] = effective * wanted[key] + (1 - effective) * value.double()
    for key, value in ema.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), wanted[key], rtol=1e-5, atol=1e-6)


def test_batch_norm_statistics_are_averaged_and_counters_copied():
    model = network()
    ema = ExponentialMovingAverage(model, 0.9998)
    before = ema.model[1].running_mean.clone()
    walk(model)
    ema.update(model, 0)
    torch.testing.assert_close(ema.model[1].running_mean, 0.1 * before + 0.9 * model[1].running_mean)
    assert ema.model[1].num_batches_tracked == model[1].num_batches_tracked == 1


def test_the_first_steps_weigh_more():
    model = network()
    ema = ExponentialMovingAverage(model, 0.9998)
    walk(model)
    ema.update(model, step=100_000)
    shift = (ema.model[0].weight - model[0].weight).abs().max()
    ema.update(model, step=0)
    assert (ema.model[0].weight - model[0].weight).abs().max() < 0.2 * shift


def test_the_average_has_tensors_of_its_own_and_no_gradients():
    model = network()
    ema = ExponentialMovingAverage(model, 0.5)
    before = {key: value.clone() for key, value in ema.model.state_dict().items()}
    walk(model)
    assert all(torch.equal(value, before[key]) for key, value in ema.model.state_dict().items())
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())


def test_weights_that_do_not_change_are_their_own_average():
    model = network()
    ema = ExponentialMovingAverage(model, 0.99)
    for step in range(5):
        ema.update(model, step)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in ema.model.state_dict().items())
