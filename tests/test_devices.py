import pytest
import torch

from effdet.devices import autocast_dtype, pick_device
from effdet.errors import ConfigError


def test_a_named_device_is_taken():
    assert pick_device("cpu") == torch.device("cpu")


def test_without_a_name_there_is_always_a_device():
    torch.zeros(1, device=pick_device())


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"device '{name}' cannot be used .*use cpu, cuda") as error:
        pick_device(name)
    assert "\n" not in str(error.value)


def test_precision_is_as_asked():
    cpu = torch.device("cpu")
    assert autocast_dtype("fp32", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    assert autocast_dtype("auto", cpu) in (None, torch.bfloat16)
    assert autocast_dtype("auto", torch.device("mps")) is None
