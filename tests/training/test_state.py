import math

import pytest
import torch

from effdet.config import OptimConfig
from effdet.models import ModelOptions, make_spec
from effdet.training.ema import ExponentialMovingAverage
from effdet.training.optim import make_optimizer
from effdet.training.state import TrainState


def fresh(seed, ema=True):
    torch.manual_seed(seed)
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 64), depth=0.2)).build(2)
    return TrainState(
        model, ExponentialMovingAverage(model, 0.9) if ema else None, make_optimizer(model, OptimConfig())
    )


def step(state):
    torch.manual_seed(state.step)  # as the engine does
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    state.model(images).class_logits.square().mean().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.ema is not None:
        state.ema.update(state.model, state.step)
    state.step += 1


def saved_and_loaded(state, path):
    torch.save(state.state_dict(), path)
    return torch.load(path, weights_only=True)


def assert_same_weights(first, second):
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_state_loaded_from_a_file_continues_the_same_way(tmp_path):
    other, state = fresh(1), fresh(0)
    step(state)
    state.best, state.seconds = 0.25, 12.5
    content = saved_and_loaded(state, tmp_path / "state.pt")
    step(state)
    other.load_state_dict(content)
    assert (other.step, other.best, other.seconds) == (1, 0.25, 12.5)
    step(other)
    assert_same_weights(state.model, other.model)
    assert_same_weights(state.ema.model, other.ema.model)


def test_without_an_ema_the_model_itself_is_deployed(tmp_path):
    plain = fresh(0, ema=False)
    assert plain.evaluated is plain.model
    assert saved_and_loaded(plain, tmp_path / "state.pt")["average"] is None
    averaged = fresh(0)
    assert averaged.evaluated is averaged.ema.model


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", True),
        ("step", "1"),
        ("step", -1),
        ("seconds", math.nan),
        ("best", math.inf),
        ("stale", 0.5),
        ("recent", {}),
    ],
)
def test_a_state_with_values_of_other_types_is_refused(tmp_path, key, value):
    state = fresh(0, ema=False)
    content = {**saved_and_loaded(state, tmp_path / "state.pt"), key: value}
    with pytest.raises(ValueError, match=key):
        state.load_state_dict(content)


def test_a_new_ema_starts_from_the_weights(tmp_path):
    plain = fresh(0, ema=False)
    step(plain)
    averaged = fresh(1)
    averaged.load_state_dict(saved_and_loaded(plain, tmp_path / "state.pt"))
    assert_same_weights(averaged.ema.model, plain.model)
