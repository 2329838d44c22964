import pytest

from effdet.config import ClassificationAugment, ProgressiveConfig
from effdet.data.progressive import StageSettings, stage_of, stage_settings

SIZE = (40, 40)
STAGES = ProgressiveConfig(
    image_size=(32, 48, 64),
    rand_augment_magnitude=(5, 10, 15),
    mixup_alpha=(0, 0.1, 0.2),
    cutmix_alpha=(0, 0.3, 0.6),
    dropout=(0.1, 0.2, 0.3),
)


def test_stages_divide_the_epochs_as_in_the_reference():
    starts = [next(epoch for epoch in range(350) if stage_of(epoch, 350, 4) == stage) for stage in range(4)]
    assert starts == [0, 87, 175, 262]
    stages = [stage_of(epoch, 350, 4) for epoch in range(350)]
    assert stages == sorted(stages)
    assert stage_of(400, 350, 4) == 3


@pytest.mark.parametrize(("epochs", "num_stages"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (7, 3), (10, 1)])
def test_a_run_of_any_length_ends_in_the_last_stage(epochs, num_stages):
    stages = [stage_of(epoch, epochs, num_stages) for epoch in range(epochs)]
    assert stages[-1] == num_stages - 1
    assert set(stages) <= set(range(num_stages))
    if epochs >= num_stages:
        assert set(stages) == set(range(num_stages))


def test_settings_of_an_epoch_are_those_of_its_stage():
    augment = ClassificationAugment(mixup_alpha=0.9)
    assert stage_settings(0, 9, SIZE, augment, STAGES) == StageSettings((32, 32), 5, 0, 0, 0.1)
    assert stage_settings(3, 9, SIZE, augment, STAGES) == StageSettings((48, 48), 10, 0.1, 0.3, 0.2)
    assert stage_settings(8, 9, SIZE, augment, STAGES) == StageSettings((64, 64), 15, 0.2, 0.6, 0.3)


def test_settings_without_stages_are_those_of_the_recipe():
    augment = ClassificationAugment(rand_augment={"magnitude": 7}, mixup_alpha=0.1, cutmix_alpha=0.2)
    assert stage_settings(3, 10, SIZE, augment, None) == StageSettings(SIZE, 7, 0.1, 0.2, None)
    sizes = ProgressiveConfig(image_size=(32, 48))
    assert stage_settings(9, 10, SIZE, augment, sizes) == StageSettings((48, 48), 7, 0.1, 0.2, None)
    assert stage_settings(0, 10, SIZE, None, None) == StageSettings(SIZE, 0, 0, 0, None)
