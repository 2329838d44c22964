import copy
import math

import pytest
import torch
from torch import nn

from effdet.training.rmsprop import RMSProp


def weights_of(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def gradients_of(weights, step):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(weight.shape, generator=generator, dtype=weight.dtype) for weight in weights]


def run(optimizer, weights, steps):
    for step in steps:
        for weight, gradient in zip(weights, gradients_of(weights, step), strict=True):
            weight.grad = gradient
        optimizer.step()


def slow_run(weight, gradients, lr, decay=0.9, momentum=0.9, eps=1e-3, weight_decay=0.0):
    """One number through all steps, as the definition has it."""
    mean_square, buffer = 1.0, 0.0
    for gradient in gradients:
        gradient += weight_decay * weight
        mean_square = decay * mean_square + (1 - decay) * gradient**2
        buffer = momentum * buffer + lr * gradient / math.sqrt(mean_square + eps)
        weight -= buffer
    return weight


def assert_like_slow(weights, start, number, steps, **options):
    """Weight `number` against the slow loop from its value at the start."""
    series = torch.stack([gradients_of(start, step)[number].flatten() for step in range(steps)], dim=1).tolist()
    slow = [slow_run(*pair, **options) for pair in zip(start[number].flatten().tolist(), series, strict=True)]
    torch.testing.assert_close(weights[number].detach().flatten(), torch.tensor(slow, dtype=torch.float64))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"decay": 0.5, "momentum": 0.0, "eps": 1.0},
        {"decay": 0.99, "momentum": 0.5, "eps": 1e-8, "weight_decay": 1e-5},
    ],
)
def test_steps_agree_with_a_slow_loop(options):
    weights = weights_of((3, 4), (5,), (2, 2, 3, 3), ())
    start = [weight.detach().clone() for weight in weights]
    run(RMSProp(weights, 0.05, **options), weights, range(7))
    for number in range(4):
        assert_like_slow(weights, start, number, 7, lr=0.05, **options)


def test_groups_have_their_own_values():
    weights = weights_of((3, 4), (5,))
    start = [weight.detach().clone() for weight in weights]
    groups = [{"params": weights[:1], "weight_decay": 0.2}, {"params": weights[1:], "lr": 0.01, "decay": 0.5}]
    run(RMSProp(groups, 0.05, weight_decay=0.0), weights, range(5))
    assert_like_slow(weights, start, 0, 5, lr=0.05, weight_decay=0.2)
    assert_like_slow(weights, start, 1, 5, lr=0.01, decay=0.5)


def test_a_run_resumed_from_its_state_goes_on_exactly(tmp_path):
    weights = weights_of((4, 3), (7,), dtype=torch.float32)
    optimizer = RMSProp(weights, 0.05, weight_decay=1e-4)
    run(optimizer, weights, range(3))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed = copy.deepcopy(weights)
    other = RMSProp(resumed, 1.0)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(optimizer, weights, range(3, 6))
    run(other, resumed, range(3, 6))
    assert all(one.equal(two) for one, two in zip(weights, resumed, strict=True))
    assert other.param_groups[0]["lr"] == 0.05


def test_a_weight_without_gradient_is_left_alone():
    moved, still = weights_of((3,), (4,))
    before = still.detach().clone()
    optimizer = RMSProp([moved, still], 0.05, weight_decay=0.1)
    run(optimizer, [moved], range(3))
    assert still.equal(before)
    assert still not in optimizer.state


def test_the_gradient_itself_is_left_as_it_is():
    (weight,) = weights_of((3,))
    weight.grad = torch.ones_like(weight)
    RMSProp([weight], 0.05, weight_decay=0.5).step()
    assert weight.grad.equal(torch.ones_like(weight))


@pytest.mark.parametrize("gradient", [1e-4, 0.01, 100.0])
def test_the_first_step_is_small_for_a_small_gradient_and_bounded_for_a_large_one(gradient):
    own, torchs = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    for weight, optimizer in (
        (own, RMSProp([own], 0.1)),
        (torchs, torch.optim.RMSprop([torchs], 0.1, alpha=0.9, eps=0, momentum=0.9)),
    ):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    assert own.item() == pytest.approx(-0.1 * gradient / math.sqrt(0.901 + 0.1 * gradient**2))
    assert torchs.item() == pytest.approx(-0.1 / math.sqrt(0.1), rel=1e-3)  # the same for every gradient


def test_a_new_learning_rate_acts_on_new_gradients_only():
    (weight,) = weights_of((1,))
    optimizer = RMSProp([weight], 0.1)
    run(optimizer, [weight], range(1))
    buffer, before = optimizer.state[weight]["momentum_buffer"].clone(), weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    run(optimizer, [weight], range(1, 2))
    torch.testing.assert_close(weight.detach(), before - 0.9 * buffer)


def test_a_closure_computes_the_loss_anew():
    (weight,) = weights_of((3,))
    optimizer = RMSProp([weight], 0.01)

    def loss():
        optimizer.zero_grad()
        value = weight.square().sum()
        value.backward()
        return value.item()

    losses = [optimizer.step(loss) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_state_keeps_the_memory_layout_of_its_weight():
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = RMSProp([weight], 0.1)
    run(optimizer, [weight], range(1))
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in optimizer.state[weight].values())
