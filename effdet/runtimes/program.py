"""Opens programs of torch.export (.pt2) and runs them in PyTorch.

Writing them is in `effdet/exporting/program_file.py`.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401  (its NMS is an operator of the programs)
from numpy.typing import NDArray

from effdet.errors import WeightsError
from effdet.runtimes.exported import Graph
from effdet.runtimes.program_content import checked_program, is_stored
from effdet.text import reason_of

CARD_FILE = "effdet.json"  # inside the archive


def read_metadata(path: Path) -> str | None:
    """The JSON text that describes a file; None if it has none.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.rpartition("/")[2] == CARD_FILE and is_stored(entry):
                    return archive.read(entry).decode("utf-8")
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not a program of torch.export, or damaged ({error}); export it again") from None
    return None


def device_of(device: torch.device) -> torch.device:
    """The device itself: PyTorch runs a program on any."""
    return device


def open_graph(path: Path, device: torch.device, threads: int | None = None) -> Graph:
    """The program of a file, ready to run.

    Args:
        path: the file.
        device: where it computes.
        threads: CPU threads of PyTorch, for the whole process; None leaves them as they are.

    Raises:
        WeightsError: the file is damaged, holds more than tensors and operators, or another version of PyTorch wrote
            it.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        content = checked_program(path)
    except ValueError as error:
        raise WeightsError(
            f"{path}: refused, because {error}; a program may hold tensors and operators alone; export the model again"
        ) from None
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsError(f"{path}: not a program of torch.export, or damaged ({reason_of(error)})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how torch stored the weights
            program = torch.export.load(content)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        module = program.module()
    except Exception as error:  # torch raises whatever its reader stumbles over
        reason = reason_of(error)
        raise WeightsError(
            f"{path}: PyTorch {torch.__version__} cannot load this program, which is damaged or of another version: "
            f"{reason}; export it again with this version"
        ) from None

    def run(images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        with torch.inference_mode():
            outputs: dict[str, torch.Tensor] = module(torch.from_numpy(images).to(device))
        return {name: values.cpu().numpy() for name, values in outputs.items()}

    return run
