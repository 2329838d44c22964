"""The replay of a debug dump: its step once more, under observation.

What a dump holds is in `dump.py`; how a step is observed is in `nan_trace.py`.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from effdet.config import make_config
from effdet.devices import move_to_device, use_deterministic_algorithms
from effdet.errors import WeightsError
from effdet.training.debug.dump import PRECISIONS, DebugDump, last_line, model_of
from effdet.training.debug.nan_trace import NanTrace, trace
from effdet.training.tasks import TASKS


def replay(dump: DebugDump, device: torch.device, dtype: torch.dtype | None) -> NanTrace:
    """Repeats the step of a dump under observation.

    On the device and in the precision of the dump it gives the losses of the step; of several processes, those of this
    one.

    Args:
        dump: the step.
        device: where to compute.
        dtype: precision under autocast; None for float32.

    Raises:
        ConfigError, WeightsError: the dump is of another version of this package.
    """
    card, task = dump.card, TASKS[dump.card.task]
    config = make_config(card.config, source="the recipe of the debug dump")
    model = model_of(dump)
    model.checkpoint_activations(config.train.activation_checkpointing)
    use_deterministic_algorithms(config.train.deterministic)
    move_to_device(model, device, config.train.channels_last)
    criterion = task.make_criterion(config.loss, card.class_names)
    try:
        criterion.load_state_dict(dump.criterion)
    except RuntimeError as error:
        raise WeightsError(f"the state of the criterion does not fit its recipe: {last_line(error)}") from None
    images = dump.images.to(device).contiguous(memory_format=torch.channels_last)
    targets = task.restore_targets(dump.targets, device)
    normalizer = torch.tensor(dump.normalizer, device=device)
    micro_batches, start = [], 0
    for size in dump.sizes:
        chunk = slice(start, start + size)
        micro_batch = task.micro_batch(model, images[chunk], targets[chunk], dump.rows[chunk])
        micro_batches.append(replace(micro_batch, normalizer=normalizer))
        start += size
    scale = dump.loss_scale if PRECISIONS[dtype] == dump.precision else 1.0
    torch.manual_seed(dump.seed)
    return trace(model, criterion, task, micro_batches, dtype, scale)
