"""Progressive learning: the settings of each epoch of a classifier's run. Source: EfficientNetV2, section 4.

The stages are keys of the recipe; the data set and the task look up here what holds in an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from effdet.config import ClassificationAugment, ProgressiveConfig


@dataclass(frozen=True)
class StageSettings:
    """What holds in an epoch, stage by stage or all the time.

    Attributes:
        image_size: (H, W) of the images.
        rand_augment_magnitude: strength of RandAugment.
        mixup_alpha: alpha of mixup, 0 for none.
        cutmix_alpha: alpha of CutMix, 0 for none.
        dropout: rate before the last layer; None leaves it as it is.
    """

    image_size: tuple[int, int]
    rand_augment_magnitude: float
    mixup_alpha: float
    cutmix_alpha: float
    dropout: float | None


def stage_settings(
    epoch: int,
    epochs: int,
    image_size: tuple[int, int],
    augment: ClassificationAugment | None,
    progressive: ProgressiveConfig | None,
) -> StageSettings:
    """What holds in an epoch: the values of its stage, else those of the recipe.

    Args:
        epoch: counted from 0.
        epochs: length of the run.
        image_size: (H, W) outside of stages.
        augment: the random changes outside of stages; None for none.
        progressive: the stages; None for none.
    """
    settings = StageSettings(
        image_size=image_size,
        rand_augment_magnitude=augment.rand_augment.magnitude if augment else 0.0,
        mixup_alpha=augment.mixup_alpha if augment else 0.0,
        cutmix_alpha=augment.cutmix_alpha if augment else 0.0,
        dropout=None,
    )
    if progressive is None:
        return settings
    stage = stage_of(epoch, epochs, progressive.num_stages)
    values = {key: per_stage[stage] for key, per_stage in progressive if per_stage is not None}
    if "image_size" in values:
        values["image_size"] = (values["image_size"], values["image_size"])
    return replace(settings, **values)


def stage_of(epoch: int, epochs: int, num_stages: int) -> int:
    """Stage in 0..num_stages-1 of an epoch, counted from 0; the stages divide the epochs of a run equally.

    Stage s begins with epoch int(epochs * s / num_stages), as in the reference code.
    """
    return sum(epoch >= epochs * stage // num_stages for stage in range(1, num_stages))
