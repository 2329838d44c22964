"""A run with progressive stages, shared by the tests of training, and runs that draw nothing."""

from pathlib import Path

import pytest
from rich.console import Console


@pytest.fixture(scope="session")
def staged_recipe(shapes_recipe) -> Path:
    """A recipe that trains a classifier for two epochs in two stages, with everything that is random."""
    path = shapes_recipe.parent / "staged.yaml"
    path.write_text(
        f"""
base: {shapes_recipe.name}
augment: {{rand_augment: {{layers: 1}}, cutmix_alpha: 1.0, random_erasing: 0.25}}
progressive: {{image_size: [32, 64], rand_augment_magnitude: [2, 9], mixup_alpha: [0.2, 0.5], dropout: [0.1, 0.3]}}
"""
    )
    return path


@pytest.fixture(scope="session")
def staged_run(staged_recipe) -> Path:
    """The folder of an uninterrupted run of that recipe."""
    from effdet.config import load_config
    from effdet.training.engine import train

    folder = staged_recipe.parent / "staged_run"
    assert train(load_config(staged_recipe), folder, "cpu", None, Console(quiet=True)) == "finished"
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    """Runs draw neither curves nor confusions, which are most of the time of runs this small."""
    monkeypatch.setattr("effdet.training.epoch.draw_curves", lambda folder: None)
    monkeypatch.setattr("effdet.evaluation.confusion.draw_confusion", lambda *given, **options: None)
    monkeypatch.setattr("effdet.evaluation.accuracy.draw_confusion", lambda *given, **options: None)
