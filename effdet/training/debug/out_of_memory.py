"""Errors for a training or evaluation that runs out of memory: how large the batch was, and what to change next.

Settings that fit into a given memory are measured in `memory.py`.
"""

from __future__ import annotations

import math

import torch

from effdet.config import TrainConfig
from effdet.errors import TrainingError
from effdet.text import count_of


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the host is out of memory."""
    messages = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    )


def out_of_memory_error(
    train: TrainConfig, images: int, image_size: tuple[int, int], dtype: torch.dtype | None
) -> TrainingError:
    """The error for a training step that ran out of memory.

    Args:
        train: section `train` of the recipe.
        images: batch size of the process, over all its micro-batches.
        image_size: (H, W) of the images in pixels.
        dtype: type of the model under autocast, or None for float32.
    """
    steps = min(train.accumulation_steps, images)
    per_forward = math.ceil(images / steps)
    if per_forward > 1:
        advice = f"set train.accumulation_steps={min(2 * steps, images)}"
    elif not train.activation_checkpointing:
        advice = "set train.activation_checkpointing=true"
    elif dtype is None:
        advice = "set train.precision=bf16"
    else:
        advice = "lower model.image_size, or use a smaller model"
    height, width = image_size
    return TrainingError(
        f"not enough memory for {count_of(per_forward, 'image')} of {height} x {width} per forward "
        f"pass; {advice} (`effdet plan CONFIG --memory 11GB` measures what fits)"
    )


def evaluation_out_of_memory_error(batch_size: int) -> TrainingError:
    """The error for an evaluation that ran out of memory with `batch_size` images per forward pass."""
    if batch_size == 1:
        return TrainingError("not enough memory to evaluate one image; train with a smaller model.image_size")
    return TrainingError(
        f"not enough memory to evaluate {batch_size} images per forward pass; set eval.batch_size={batch_size // 2}, "
        "then continue with --resume"
    )
