import torch
from torch import nn

from effdet.training.ema import WeightAverage


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
    average = WeightAverage(model, decay)
    wanted = {key: value.double() for key, value in model.state_dict().items()}
    for step in range(20):
        walk(model)
        average.update(model, step)
        share = min(decay, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            wanted[key] = share * wanted[key] + (1 - share) * value.double()
    for key, value in average.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), wanted[key], rtol=1e-5, atol=1e-6)


def test_statistics_of_norms_are_averaged_and_counters_copied():
    model = network()
    average = WeightAverage(model, 0.9998)
    before = average.model[1].running_mean.clone()
    walk(model)
    average.update(model, 0)
    torch.testing.assert_close(average.model[1].running_mean, 0.1 * before + 0.9 * model[1].running_mean)
    assert average.model[1].num_batches_tracked == model[1].num_batches_tracked == 1


def test_the_first_steps_weigh_more():
    model = network()
    average = WeightAverage(model, 0.9998)
    walk(model)
    average.update(model, step=100_000)
    shift = (average.model[0].weight - model[0].weight).abs().max()
    average.update(model, step=0)
    assert (average.model[0].weight - model[0].weight).abs().max() < 0.2 * shift


def test_the_average_shares_nothing_with_the_model_and_takes_no_gradients():
    model = network()
    average = WeightAverage(model, 0.5)
    before = {key: value.clone() for key, value in average.model.state_dict().items()}
    walk(model)
    assert all(torch.equal(value, before[key]) for key, value in average.model.state_dict().items())
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_weights_that_stand_still_are_their_own_average():
    model = network()
    average = WeightAverage(model, 0.99)
    for step in range(5):
        average.update(model, step)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in average.model.state_dict().items())
