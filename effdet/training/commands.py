"""The commands that a run names: how it is continued, and what can be done with its weights.

They are meant to be copied and run as they stand, in the same working folder.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import torch

from effdet.devices import pick_device
from effdet.distributed import SINGLE, Processes


def resume_command(
    folder: Path, *overrides: str, processes: Processes = SINGLE, device: torch.device | None = None
) -> str:
    """The command that continues a run, with as many processes as it has now.

    Args:
        folder: the run's folder; its recipe is in it.
        overrides: changes to the recipe, written section.key=value.
        processes: those of the run.
        device: the one of the run; it is named if it is not the one that is chosen without `--device`.
    """
    words = [*_program("train", processes), "--resume", str(folder), *overrides]
    if processes.size == 1 and device is not None and device != pick_device():
        words += ["--device", str(device)]
    return shlex.join(words)


def verb_command(verb: str, *arguments: str) -> str:
    """`effdet VERB ...` in one process."""
    return shlex.join([*_program(verb, SINGLE), *arguments])


def _program(verb: str, processes: Processes) -> list[str]:
    """How a verb is started: as it was now, by `effdet` or by the scripts in tools/, and under torchrun."""
    script = Path(sys.argv[0])
    is_tool = script.parent.name == "tools" and script.suffix == ".py"
    program = [str(script.with_name(f"{verb}.py"))] if is_tool else ["effdet", verb]
    if processes.size == 1:
        return ["python", *program] if is_tool else program
    machines = processes.size // processes.local_size
    meeting = (f"--nnodes={machines}", "--rdzv-backend=c10d", "--rdzv-endpoint=HOST:PORT")
    launcher = ["torchrun", *(meeting if machines > 1 else ("--standalone",))]
    return [*launcher, f"--nproc-per-node={processes.local_size}", *([] if is_tool else ["--no-python"]), *program]
