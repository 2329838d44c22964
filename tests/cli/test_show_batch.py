import cv2
import pytest
import torch
from rich.console import Console

from effdet.cli import main
from effdet.config import load_config
from effdet.data.images import read_image
from effdet.report.sheet import GAP, SIDE
from effdet.training.tasks.classification import ClassificationTask
from effdet.training.tasks.detection import DetectionTask

QUIET = Console(quiet=True)


def sheet(tmp_path, *arguments):
    path = tmp_path / "sheet.png"
    assert main(["show-batch", *map(str, arguments), "--out", str(path)]) == 0
    return read_image(path)


def cells(picture, columns):
    """The square images of a sheet, row by row."""
    step = SIDE + GAP
    assert picture.shape[1] == columns * step + GAP
    assert (picture.shape[0] - GAP) % step == 0
    corners = [(top, left) for top in range(GAP, picture.shape[0], step) for left in range(GAP, columns * step, step)]
    return [picture[top : top + SIDE, left : left + SIDE] for top, left in corners]


def enlarged(image):
    """An image [3, H, W] as large as in the sheet."""
    return cv2.resize(image.permute(1, 2, 0).numpy(), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)


def equal_fraction(cell, image):
    """Fraction of the pixels of a cell that are those of an image [3, H, W]."""
    return (enlarged(image) == cell).all(axis=2).mean()


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(["show-batch", *map(str, arguments)]) == 1
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize("changes", [[], ["augment.mosaic=1", "augment.mixup=1", "augment.close_mosaic_epochs=1"]])
def test_the_images_of_a_detector_are_those_of_its_training(tmp_path, tiny_recipe, changes):
    task = DetectionTask(load_config(tiny_recipe, changes), QUIET)
    batches = list(task.data.batches(0, 4, pin_memory=False))  # three of the first epoch, one of the last
    shown = cells(sheet(tmp_path, tiny_recipe, *changes, "--batches", 4), 4)
    images = torch.cat([batch.images for batch in batches])
    assert len(shown) == len(images) == 16
    for cell, image in zip(shown, images, strict=True):
        assert equal_fraction(cell, image) > 0.5  # the rest are boxes and names


def test_boxes_are_drawn_around_the_objects(tmp_path, tiny_recipe):
    changes = ["augment.scale_jitter=null"]
    (batch,) = DetectionTask(load_config(tiny_recipe, changes), QUIET).data.batches(0, 1, pin_memory=False)
    shown = cells(sheet(tmp_path, tiny_recipe, *changes), 4)
    for cell, image, target in zip(shown, batch.images, batch.targets, strict=True):
        plain = enlarged(image)
        changed = (cell != plain).any(axis=2)
        for left, top, right, bottom in (target.boxes * SIDE / 64).round().int().clamp(max=SIDE - 1).tolist():
            for edge in (changed[top:bottom, left], changed[bottom, left:right], changed[top:bottom, right]):
                assert edge.mean() > 0.9


def test_the_last_epochs_are_those_of_the_run_even_if_steps_end_it(tiny_recipe):
    changes = ["train.epochs=9", "train.max_steps=4"]
    assert DetectionTask(load_config(tiny_recipe, changes), QUIET).data.dataset.epochs == 2
    assert DetectionTask(load_config(tiny_recipe, changes[:1]), QUIET).data.dataset.epochs == 9


@pytest.mark.parametrize("changes", [[], ["augment.mixup_alpha=0.5", "augment.cutmix_alpha=1.0"]])
def test_the_images_of_a_classifier_are_mixed_as_in_training(tmp_path, shapes_recipe, changes):
    task = ClassificationTask(load_config(shapes_recipe, changes), QUIET)
    images = [
        image
        for step, batch in enumerate(task.data.batches(0, 4, pin_memory=False))
        for micro_batch in task.prepare(batch, step)
        for image in micro_batch.images
    ]
    shown = cells(sheet(tmp_path, shapes_recipe, *changes, "--batches", 4), 6)
    assert len(shown) == len(images) == 24
    for cell, image in zip(shown, images, strict=True):
        assert (cell[SIDE // 2 :] == enlarged(image)[SIDE // 2 :]).all()
        assert (cell[: SIDE // 2] != enlarged(image)[: SIDE // 2]).any()  # the names


def test_no_more_batches_are_drawn_than_the_run_has(capsys, tmp_path, tiny_recipe):
    sheet(tmp_path, tiny_recipe, "train.epochs=1", "--batches", 50)
    assert capsys.readouterr().out.splitlines()[-1].startswith("12 images of 3 batches")


def test_arguments_that_cannot_be_used_are_refused(capsys, tmp_path, tiny_recipe):
    assert "--batches 0: nothing to draw; expected at least 1" in refused(capsys, tiny_recipe, "--batches", 0)
    assert "batch.gif: expected the name of a picture, ending in .png" in refused(
        capsys, tiny_recipe, "--out", tmp_path / "batch.gif"
    )
    (tmp_path / "file").write_text("")
    line = refused(capsys, tiny_recipe, "--out", tmp_path / "file" / "batch.png")
    assert "batch.png: cannot be written" in line
    assert "unknown key 'augment.mozaic'; did you mean 'augment.mosaic'?" in refused(
        capsys, tiny_recipe, "augment.mozaic=1"
    )


def test_the_verb_is_listed(capsys):
    assert main([]) == 0
    assert "show-batch" in capsys.readouterr().out
