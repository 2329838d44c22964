"""Device, precision, determinism and memory allocator of a process.

Nothing is computed here. Autocast is entered where the model is called.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from effdet.errors import ConfigError
from effdet.text import reason_of
from effdet.types import Precision

log = logging.getLogger("effdet")

Module = TypeVar("Module", bound=nn.Module)


def pick_device(name: str | None = None) -> torch.device:
    """The named device. Without a name, the first available one of cuda, mps, cpu.

    Raises:
        ConfigError: the device is not available.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which fails where tensors have no values, as on 'meta'
    except Exception:  # every kind of device fails in its own way
        raise ConfigError(f"device '{name}' cannot be used here; use cpu, cuda, cuda:1 or mps") from None
    return device


def use_deterministic_algorithms(enabled: bool) -> None:
    """Restricts PyTorch to deterministic algorithms, or allows all of them."""
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch requires it for matrix products on CUDA
    torch.use_deterministic_algorithms(enabled)


def move_to_device(model: Module, device: torch.device, channels_last: bool = True) -> Module:
    """Moves a model to a device and a memory layout, in place; gives the model."""
    return model.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The autocast type of a precision: bfloat16, float16, or None for float32.

    `auto` means bfloat16 on GPUs that support it and on CPUs with bfloat16 instructions, where it is about twice as
    fast. It means float32 on all other devices.
    """
    if precision == "auto":
        return torch.bfloat16 if _has_fast_bfloat16(device) else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def inference_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type in which a network predicts. `auto` means float16 on CUDA and float32 on all other devices."""
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return autocast_dtype(precision, device) or torch.float32


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(supported and supported())
    return False


def kernel_works(name: str, launch: Callable[[], object]) -> bool:
    """Whether a Triton kernel runs, which needs a compiler and a driver besides Triton; if not, a warning says so.

    Args:
        name: what the kernel computes, for the warning.
        launch: launches it once and waits for its result.
    """
    try:
        launch()
    except Exception as error:  # of many kinds: ImportError, an error of the compiler, a missing driver
        log.warning("%s: computed without the Triton kernel, which is slower (%s)", name, reason_of(error))
        return False
    return True


def keep_freed_memory() -> None:
    """Makes malloc keep the memory of freed tensors for this process instead of returning it to the system.

    On the CPU every training step frees and allocates gigabytes. Memory that was returned comes back page by page and
    zeroed, which costs a fifth of a training step. This works with glibc only; elsewhere it does nothing.
    """
    mallopt = _glibc_function("mallopt")
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # the constants M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX of malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 256 << 20)


def give_back_freed_memory() -> None:
    """Returns the memory that `keep_freed_memory` kept to the system.

    Call it between training and evaluation. Otherwise the allocations of one fragment the memory of the other, and the
    process grows each time.
    """
    malloc_trim = _glibc_function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _glibc_function(name: str) -> Any:
    """A function of the C library on Linux; None if it does not exist."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
