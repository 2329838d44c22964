import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO

from effdet.data.synthetic import CLASS_NAMES, Scene, draw_scene, files, write_data_set, write_video
from effdet.data.synthetic.scenes import LEAST_VISIBLE, Layout, draw_objects
from effdet.errors import DataError

SIZE = (256, 256)
PINNED_NAMES = ["disc", "cross", "disc", "square"]  # of scene 11 of seed 0
PINNED_BOXES = [[148, 15, 166, 34], [35, 75, 131, 182], [76, 133, 117, 177], [113, 116, 222, 244]]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(7, index, SIZE) for index in range(250)]


def sides(scenes: list[Scene]) -> NDArray[np.float32]:
    boxes = np.concatenate([scene.boxes for scene in scenes])
    return boxes[:, 2:] - boxes[:, :2]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_in_any_order() -> None:
    first = [draw_scene(3, index, SIZE) for index in (0, 1, 2)]
    np.random.seed(0)  # noqa: NPY002 the global state must not matter
    again = [draw_scene(3, index, SIZE) for index in (2, 1, 0)][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.boxes.tobytes() == other.boxes.tobytes()
        assert one.labels.tobytes() == other.labels.tobytes()


def test_a_seed_gives_the_objects_it_always_gave() -> None:
    scene = draw_scene(0, 11, SIZE)
    assert [CLASS_NAMES[label] for label in scene.labels] == PINNED_NAMES
    assert scene.boxes.tolist() == PINNED_BOXES


@pytest.mark.parametrize("other", [(4, 0, 0), (3, 1, 0), (3, 0, 1)])
def test_another_seed_index_or_split_gives_another_picture(other: tuple[int, int, int]) -> None:
    seed, index, split = other
    assert not np.array_equal(draw_scene(3, 0, SIZE).image, draw_scene(seed, index, SIZE, split).image)


@pytest.mark.parametrize("size", [(64, 64), (96, 200), (321, 175)])
def test_any_size_gives_typed_arrays_of_that_size(size: tuple[int, int]) -> None:
    for index in range(10):
        scene = draw_scene(1, index, size)
        assert scene.image.shape == (*size, 3)
        assert (scene.image.dtype, scene.boxes.dtype, scene.labels.dtype) == (np.uint8, np.float32, np.int64)
        assert scene.boxes.shape == (len(scene.labels), 4)


def test_boxes_are_within_the_image(scenes: list[Scene]) -> None:
    boxes = np.concatenate([scene.boxes for scene in scenes])
    assert boxes.min() >= 0
    assert boxes.max() <= 256
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_boxes_are_tight_around_what_is_painted() -> None:
    for index in range(40):
        rng = np.random.default_rng(index)
        canvas = np.full((128, 128, 3), 127, np.uint8)
        boxes, _ = draw_objects(rng, canvas, 1)
        changed = np.abs(canvas.astype(int) - 127).sum(axis=2) >= 40
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(boxes[0], seen, atol=2)


def test_every_class_appears_about_as_often(scenes: list[Scene]) -> None:
    counts = np.bincount(np.concatenate([scene.labels for scene in scenes]), minlength=len(CLASS_NAMES))
    assert len(counts) == len(CLASS_NAMES)
    assert counts.min() > 0.6 * counts.mean()


def test_a_small_fraction_of_scenes_is_empty(scenes: list[Scene]) -> None:
    assert 0.03 < np.mean([len(scene.labels) == 0 for scene in scenes]) < 0.14


def test_an_empty_scene_has_empty_boxes(scenes: list[Scene]) -> None:
    empty = next(scene for scene in scenes if len(scene.labels) == 0)
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.shape == (0,)


def test_objects_range_from_12_pixels_to_half_the_side(scenes: list[Scene]) -> None:
    extents = sides(scenes).max(axis=1)
    assert 11 <= extents.min() < 16
    assert 110 < extents.max() <= 128 * 1.08  # blur widens the largest a little
    assert 0.02 < np.mean(extents < 20) < 0.15


def test_no_object_is_mostly_covered_by_later_ones() -> None:
    rng = np.random.default_rng(0)
    layout, disc = Layout((64, 64)), np.zeros((40, 40), np.uint8)
    cv2.circle(disc, (20, 20), 19, 1, -1)
    placed = [layout.add(rng, disc > 0) for _ in range(30)]
    shown = np.bincount(layout.owner.ravel())[1:]
    assert None in placed
    assert len(shown) >= 2
    assert (shown >= LEAST_VISIBLE * (disc > 0).sum()).all()


def test_the_data_set_is_valid_coco(tmp_path: Path) -> None:
    write_data_set(tmp_path, 12, 5, (96, 128), seed=2)
    for split, number in (("train2017", 12), ("val2017", 5)):
        coco = COCO(str(tmp_path / "annotations" / f"instances_{split}.json"))
        assert [category["name"] for category in coco.loadCats([1, 2, 3])] == list(CLASS_NAMES[:3])
        assert sorted(coco.getCatIds()) == list(range(1, len(CLASS_NAMES) + 1))
        assert len(coco.getImgIds()) == number
        for index, image in enumerate(coco.loadImgs(sorted(coco.getImgIds()))):
            scene = draw_scene(2, index, (96, 128), files.SPLITS[split])
            picture = cv2.imread(str(tmp_path / split / image["file_name"]))
            assert picture.shape == (image["height"], image["width"], 3) == (96, 128, 3)
            assert np.abs(picture[..., ::-1].astype(int) - scene.image).mean() < 12
            rows = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            np.testing.assert_array_equal(boxes, scene.boxes)
            assert [row["category_id"] - 1 for row in rows] == scene.labels.tolist()
            assert all(row["area"] == row["bbox"][2] * row["bbox"][3] and row["iscrowd"] == 0 for row in rows)


def test_a_finished_set_is_left_alone(tmp_path: Path) -> None:
    write_data_set(tmp_path, 3, 2, (64, 64))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_data_set(tmp_path, 3, 2, (64, 64))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_other_parameters_replace_the_set(tmp_path: Path) -> None:
    write_data_set(tmp_path / "a", 4, 2, (64, 64), seed=1)
    write_data_set(tmp_path / "a", 3, 2, (64, 80), seed=5)
    write_data_set(tmp_path / "b", 3, 2, (64, 80), seed=5)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_an_interrupted_write_leaves_no_finished_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_set(tmp_path / "whole", 4, 2, (64, 64))
    write_data_set(tmp_path / "broken", 4, 2, (64, 64), seed=9)
    with monkeypatch.context() as patch:
        patch.setattr(files, "draw_scene", interrupted_at(2))
        with pytest.raises(KeyboardInterrupt):
            write_data_set(tmp_path / "broken", 4, 2, (64, 64))
    assert not (tmp_path / "broken/annotations/instances_train2017.json").exists()
    write_data_set(tmp_path / "broken", 4, 2, (64, 64))
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")


def interrupted_at(number: int) -> Callable[..., Scene]:
    def draw(seed: int, index: int, size: tuple[int, int], split: int) -> Scene:
        if index == number:
            raise KeyboardInterrupt
        return draw_scene(seed, index, size, split)

    return draw


def test_a_missing_picture_is_drawn_again(tmp_path: Path) -> None:
    write_data_set(tmp_path, 3, 1, (64, 64))
    before = snapshot(tmp_path)
    (tmp_path / "train2017/scene_000001.jpg").unlink()
    write_data_set(tmp_path, 3, 1, (64, 64))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", [json.dumps({"info": {}, "images": []}), json.dumps([]), "no JSON"])
def test_another_data_set_is_never_overwritten(tmp_path: Path, content: str) -> None:
    annotations = tmp_path / "annotations/instances_val2017.json"
    annotations.parent.mkdir()
    annotations.write_text(content)
    with pytest.raises(DataError, match="another data set"):
        write_data_set(tmp_path, 3, 2, (64, 64))
    assert snapshot(tmp_path) == {"annotations/instances_val2017.json": content.encode()}


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_data_set(tmp_path / "file", 2, 1)
    with pytest.raises(DataError, match="folder of the video"):
        write_video(tmp_path / "file" / "clip.mp4", 2, (64, 64), 0)
    with pytest.raises(DataError, match="the video cannot be written"):
        write_video(tmp_path, 2, (64, 64), 0)


def test_parameters_without_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too small"):
        draw_scene(0, 0, (256, 32))
    with pytest.raises(DataError, match="seed of the demo images is -1"):
        write_data_set(tmp_path, 1, 1, seed=-1)
    with pytest.raises(DataError, match="val2017 would have 0 scenes"):
        write_data_set(tmp_path, 1, 0)
    assert not list(tmp_path.iterdir())


def test_the_video_has_its_frames_and_moves(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "clip.mp4"
    write_video(path, 9, (120, 160), seed=1, fps=10)
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1].astype(int))
    assert len(frames) == 9
    assert frames[0].shape == (120, 160, 3)
    steps = [np.abs(after - before).mean(axis=2) for before, after in pairwise(frames)]
    assert all((step > 60).any() and (step > 60).mean() < 0.3 for step in steps)
