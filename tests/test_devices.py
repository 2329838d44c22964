import subprocess
import sys

import pytest
import torch

from effdet.devices import autocast_dtype, kernel_works, pick_device
from effdet.errors import ConfigError


def test_a_named_device_is_used():
    assert pick_device("cpu") == torch.device("cpu")


def test_without_a_name_there_is_always_a_device():
    torch.zeros(1, device=pick_device())


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu:x"])
def test_the_error_for_an_unavailable_device_names_it(name):
    with pytest.raises(ConfigError, match=f"device '{name}' cannot be used .*use cpu, cuda") as error:
        pick_device(name)
    assert "\n" not in str(error.value)


def test_autocast_has_the_precision_of_the_recipe():
    cpu = torch.device("cpu")
    assert autocast_dtype("fp32", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    assert autocast_dtype("auto", cpu) in (None, torch.bfloat16)
    assert autocast_dtype("auto", torch.device("mps")) is None


KEEPING = """
import torch
from effdet.devices import give_back_freed_memory, keep_freed_memory

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) // 1024

keep_freed_memory()
before = resident()
for _ in range(2):
    torch.ones(100, 2**20)  # 400 MiB
kept = resident() - before
give_back_freed_memory()
print(kept, resident() - before)
"""


@pytest.mark.skipif("linux" not in sys.platform, reason="works with glibc only")
def test_freed_memory_is_kept_until_it_is_given_back():
    output = subprocess.run([sys.executable, "-c", KEEPING], check=True, capture_output=True, text=True).stdout
    kept, left = map(int, output.split())
    assert kept > 300
    assert left < 100


def test_a_kernel_that_does_not_run_is_named_in_a_warning(caplog):
    def launch():
        raise ImportError("No module named 'triton'")

    assert not kernel_works("NMS", launch)
    assert caplog.messages == ["NMS: computed without the Triton kernel, which is slower (No module named 'triton')"]
    assert kernel_works("NMS", lambda: None)
