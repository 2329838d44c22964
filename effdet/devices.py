"""Which device a run uses, and which arithmetic is fast on it.

Nothing here computes; autocast itself is entered where the network is called.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, TypeVar

import torch
from torch import nn

from effdet.errors import ConfigError
from effdet.types import Precision


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or without a name the best one there is: cuda, mps, cpu.

    Raises:
        ConfigError: there is no such device here.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"device '{name}' cannot be used here; use cpu, cuda, cuda:1 or mps") from None
    return device


Module = TypeVar("Module", bound=nn.Module)


def compute_deterministically(wanted: bool) -> None:
    """Has torch take only algorithms that give the same each time, or whichever is fastest."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses matrix products on CUDA
    torch.use_deterministic_algorithms(wanted)


def move_to_device(model: Module, device: torch.device, channels_last: bool = True) -> Module:
    """The model itself, moved to a device and a memory layout."""
    return model.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Type in which the network computes while training: bfloat16, float16, or None for float32.

    'auto' takes bfloat16 on GPUs that have it, and on CPUs with bfloat16 instructions, where it is about twice as fast.
    """
    if precision == "auto":
        return torch.bfloat16 if _fast_at_bfloat16(device) else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _fast_at_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(supported and supported())
    return False


def keep_freed_memory() -> None:
    """Lets this process keep the memory that tensors free instead of giving it back to the system at once.

    On the CPU every step frees and takes gigabytes; taken anew, the system hands them out page by page and zeroed,
    which costs a fifth of a training step. Only GNU's allocator is told; elsewhere nothing happens.
    """
    mallopt = _of_gnu_libc("mallopt")
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of the parameters in malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 256 << 20)


def give_back_freed_memory() -> None:
    """Gives the system back what `keep_freed_memory` has kept.

    Between two kinds of work, such as training and evaluation: what the second leaves behind lies scattered in the
    memory of the first, which would need more each time.
    """
    malloc_trim = _of_gnu_libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_gnu_libc(name: str) -> Any:
    """A function of GNU's C library; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
