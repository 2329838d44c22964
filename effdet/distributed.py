"""Several processes that work as one: start-up under torchrun, who is who, and what they tell each other.

Without torchrun there is a single process, for which every exchange is a plain return. What is exchanged when is told
where it happens, in `evaluation` and `training`.
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

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """The processes of a run; by default this one alone.

    Values travel through host memory, tensors through the memory of their device.

    Attributes:
        rank: number of this process.
        size: how many there are.
        local_size: how many of them on this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum of the tensors of all processes, all of one shape and type; in place."""
        if self.size > 1:
            with lost_processes():
                dist.all_reduce(values)
        return values

    def all_reduce_max(self, value: int) -> int:
        """The largest of the numbers of all processes."""
        if self.size == 1:
            return value
        values = torch.tensor(value)
        with lost_processes():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def broadcast(self, value: Value) -> Value:
        """The main process's value, in every process."""
        if self.size == 1:
            return value
        held = [value]
        with lost_processes():
            dist.broadcast_object_list(held, 0)
        return held[0]

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes by rank in the main process, nothing in the others."""
        if self.size == 1:
            return [value]
        held: list[Any] | None = [None] * self.size if self.is_main else None
        with lost_processes():
            dist.gather_object(value, held)
        return held or []

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Puts the main process's buffers, such as the statistics of norms, into the model of every process."""
        if self.size > 1:
            with lost_processes():
                for buffer in model.buffers():
                    dist.broadcast(buffer, 0)


SINGLE = Processes()


@contextlib.contextmanager
def processes(device: str | None, timeout_minutes: float) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that torchrun started, joined for the length of the context, and this one's device.

    Args:
        device: name of the device, such as cpu; None takes a GPU for each process where there are GPUs.
        timeout_minutes: how long a process waits for the others.

    Raises:
        ConfigError: the device does not exist, there are fewer GPUs than processes on a machine, or the processes do
            not find each other.
    """
    size, local_rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if size == 1:
        yield SINGLE, pick_device(device)
        return
    picked = _own_device(device, local_rank)
    backend = "cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # torchrun keeps this store over restarts: without a place of its own, a start finds addresses of the last.
            store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"process {os.environ.get('RANK')} of {size} does not reach the others ({_first_line(error)}); start all "
            "of them with torchrun, with the same --nnodes and --rdzv-endpoint on every machine"
        ) from None
    try:
        yield Processes(rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", 1))), picked
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Turns the failure of an exchange, which other processes have caused, into words.

    Raises:
        TrainingError: another process has ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise TrainingError(
            f"another process has ended or does not answer ({_first_line(error)}); its own message tells why. "
            "torchrun --max-restarts=N together with --resume auto goes on from the last checkpoint"
        ) from None


def is_lost(error: RuntimeError) -> bool:
    """Whether an error comes from the connection between processes."""
    words = ("gloo", "Connection", "NCCL", "Timed out", "closed by peer", "reset by peer", "ProcessGroup")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _own_device(name: str | None, local_rank: int) -> torch.device:
    """The device of one of several processes on a machine."""
    if name is None and torch.cuda.is_available():
        name = "cuda"
    if name != "cuda":
        picked = pick_device(name)
        if picked.type != "cpu":
            raise ConfigError(
                f"--device {picked} is one device for several processes; leave it out, every process takes its own GPU"
            )
        return picked
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; start "
            f"torchrun with --nproc-per-node={max(torch.cuda.device_count(), 1)}, or train with --device cpu"
        )
    picked = pick_device(f"cuda:{local_rank}")
    torch.cuda.set_device(picked)
    return picked


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
