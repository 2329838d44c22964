"""What to tell the user of a training that found not enough memory: how large the step was and what to change next.

What fits is found out in `memory.py`.
"""

from __future__ import annotations

import math

import torch

from effdet.config import TrainConfig
from effdet.errors import TrainingError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device or of the host was not enough."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError)
        and any(told in str(error) for told in ("can't allocate memory", "out of memory", "not enough memory"))
    )


def out_of_memory(
    train: TrainConfig, images: int, image_size: tuple[int, int], dtype: torch.dtype | None
) -> TrainingError:
    """What to tell the user of a step that found not enough memory: how large it was and what to change next.

    Args:
        train: that section of the recipe.
        images: of the process's batch, which is computed in `train.accumulation_steps` parts.
        image_size: their (H, W).
        dtype: type of the network under autocast, or None for float32.
    """
    parts = min(train.accumulation_steps, images)
    part = math.ceil(images / parts)
    if part > 1:
        advice = f"set train.accumulation_steps={min(2 * parts, images)}"
    elif not train.checkpoint_activations:
        advice = "set train.checkpoint_activations=true"
    elif dtype is None:
        advice = "set train.precision=bf16"
    else:
        advice = "make model.image_size smaller, or take a smaller network"
    height, width = image_size
    return TrainingError(
        f"not enough memory for a step with {part} image{'s' if part > 1 else ''} of {height} x {width} at a time; "
        f"{advice} (`effdet plan CONFIG --memory 11GB` finds what fits)"
    )


def out_of_memory_in_evaluation(batch_size: int) -> TrainingError:
    """What to tell the user of an evaluation that found not enough memory for `batch_size` images at a time."""
    if batch_size == 1:
        return TrainingError("not enough memory to evaluate a single image; train with a smaller model.image_size")
    return TrainingError(
        f"not enough memory to evaluate {batch_size} images at a time; set eval.batch_size={batch_size // 2} and go on "
        "with --resume"
    )
