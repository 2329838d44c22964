"""The process group of a run under torchrun: start-up, rank and world size, and the collective operations.

Without torchrun there is one process, and every collective operation returns its input. What is exchanged and when is
decided in `training`, `evaluation` and `inference`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from effdet.devices import pick_device
from effdet.errors import ConfigError, TrainingError
from effdet.text import reason_of

Value = TypeVar("Value")


def is_first_process() -> bool:
    """Whether this process is the one that prints, before the processes have met."""
    return os.environ.get("RANK", "0") == "0"  # set by torchrun


@dataclass(frozen=True)
class Processes:
    """Rank and world size of this process, with the collective operations; by default it is the only process.

    Tensors are exchanged on their device, other values through host memory. Every process must call the same collective
    operations in the same order.

    Attributes:
        rank: rank of this process.
        size: number of processes (the world size).
        local_size: number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes files and prints."""
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Sums tensors of equal shape and type over all processes, in place; gives the tensor."""
        if self.size > 1:
            with explain_lost_process():
                dist.all_reduce(values)
        return values

    def all_reduce_max(self, value: int) -> int:
        """The maximum of a number over all processes."""
        if self.size == 1:
            return value
        values = torch.tensor(value)
        with explain_lost_process():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def broadcast(self, value: Value) -> Value:
        """The value of rank 0, in every process."""
        if self.size == 1:
            return value
        values = [value]
        with explain_lost_process():
            dist.broadcast_object_list(values, 0)
        return values[0]

    def gather(self, value: Value) -> list[Value]:
        """On rank 0 the values of all processes in the order of their ranks; an empty list on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        with explain_lost_process():
            dist.gather_object(value, values)
        return values or []

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copies the buffers of rank 0, such as BatchNorm statistics, into the model of every process."""
        if self.size > 1:
            with explain_lost_process():
                for buffer in model.buffers():
                    dist.broadcast(buffer, 0)


SINGLE = Processes()


@contextlib.contextmanager
def process_group(device: str | None, timeout_minutes: float) -> Iterator[tuple[Processes, torch.device]]:
    """Initializes the process group of torchrun for the duration of the context; gives it and the device of this rank.

    Args:
        device: name of the device, such as cpu; None uses one GPU per process, or the CPU without GPUs.
        timeout_minutes: how long a process waits for the others.

    Raises:
        ConfigError: the device is not available, a machine has fewer GPUs than processes, or the processes cannot
            connect to each other.
    """
    size, local_rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if size == 1:
        yield SINGLE, pick_device(device)
        return
    picked = _local_device(device, local_rank)
    backend = "cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # torchrun keeps this store when it restarts the processes. The prefix hides addresses of the last start.
            store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"rank {os.environ.get('RANK')} of {size} cannot reach the other processes ({_first_line(error)}); start "
            "all of them with torchrun, with the same --nnodes and --rdzv-endpoint on every machine"
        ) from None
    try:
        yield Processes(rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", 1))), picked
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def explain_lost_process() -> Iterator[None]:
    """Replaces the RuntimeError of a collective operation by a readable message if another process is the cause.

    Raises:
        TrainingError: another process has ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_connection_error(error):
            raise
        raise TrainingError(
            f"another process has ended or does not answer ({_first_line(error)}); its own message says why. "
            "With torchrun --max-restarts=N and --resume auto, training continues from the last checkpoint"
        ) from None


def _is_connection_error(error: RuntimeError) -> bool:
    """Whether an error comes from the connection between processes."""
    words = ("gloo", "Connection", "NCCL", "Timed out", "closed by peer", "reset by peer", "ProcessGroup")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _local_device(name: str | None, local_rank: int) -> torch.device:
    """The device of one process of several on a machine."""
    if name is None and torch.cuda.is_available():
        name = "cuda"
    if name != "cuda":
        picked = pick_device(name)
        if picked.type != "cpu":
            raise ConfigError(
                f"--device {picked} is a single device, but there are several processes; leave --device out, and each "
                "process uses its own GPU"
            )
        return picked
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"no GPU for the process with local rank {local_rank} (GPUs on this machine: {count}); start torchrun with "
            f"--nproc-per-node={max(count, 1)}, or train with --device cpu"
        )
    picked = pick_device(f"cuda:{local_rank}")
    torch.cuda.set_device(picked)
    return picked


def _first_line(error: Exception) -> str:
    return reason_of(error)
