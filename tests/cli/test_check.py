import json
import re
import shutil

import cv2
import numpy as np
import pytest

from effdet.cli import main
from effdet.data.synthetic import write_data_set


@pytest.fixture
def data(tmp_path):
    """A COCO data set without problems, 96 x 96 pixels."""
    write_data_set(tmp_path / "data", 6, 3, size=(96, 96))
    return tmp_path / "data"


def edit(data, change, split="train2017"):
    path = data / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flatten_first_box(content):
    content["annotations"][0]["bbox"][2] = 0


def test_a_clean_data_set_exits_with_0(data, capsys):
    assert main(["check", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "COCO data set: splits train2017, val2017"
    assert lines[-1].startswith("no problems")


def test_a_problem_is_named_and_exits_with_3(data, capsys):
    edit(data, flatten_first_box)
    assert main(["check", str(data)]) == 3
    out = capsys.readouterr().out
    assert "train2017: boxes without area: 1" in out
    assert "scene_000000.jpg box 1 (0 x " in out
    assert out.splitlines()[-1].startswith("1 problem")


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], ["{data}", "data.rooot=x"], ["{data}", "--images", "-1"]])
def test_what_cannot_be_checked_exits_with_1(data, tmp_path, capsys, monkeypatch, arguments):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["check", *(text.format(data=data) for text in arguments)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_lines_fit_80_columns(data, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    edit(data, flatten_first_box)
    main(["check", str(data)])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_json_goes_to_standard_output_alone(data, capsys):
    edit(data, flatten_first_box)
    assert main(["check", str(data), "--json", "-"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in report["findings"] if finding["severity"] == "problem"] == ["box-no-area"]


def test_json_names_all_places_where_the_table_names_three(data, tmp_path, capsys):
    for row in range(5):
        (data / "train2017" / f"scene_{row:06d}.jpg").write_bytes(b"")
    assert main(["check", str(data), "--json", str(tmp_path / "report.json")]) == 3
    assert "and 2 more" in capsys.readouterr().out
    (finding,) = json.loads((tmp_path / "report.json").read_text())["findings"][:1]
    assert finding["kind"] == "damaged-image"
    assert [place["file"] for place in finding["places"]] == [f"scene_{row:06d}.jpg" for row in range(5)]
    assert all("empty" in place["detail"] for place in finding["places"])


def test_a_recipe_stands_for_its_data_set(data, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"model: {{name: efficientdet_lite0, image_size: [64, 64]}}\ndata: {{root: {data}}}\n")
    assert main(["check", str(recipe)]) == 0
    assert "pixels of an input of 64 x 64" in capsys.readouterr().out


def test_one_annotation_file_is_a_data_set(data, capsys):
    path = data / "annotations" / "instances_val2017.json"
    assert main(["check", str(path), f"data.train.images={data / 'val2017'}"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "COCO data set: split all"


def test_class_folders_are_checked(shapes_data, capsys):
    assert main(["check", str(shapes_data / "train")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "Class folder data set: split all"


def test_the_page_loads_nothing_and_shows_the_images(data, tmp_path):
    edit(data, flatten_first_box)
    shutil.copyfile(data / "train2017" / "scene_000001.jpg", data / "val2017" / "scene_000001.jpg")
    page = tmp_path / "page.html"
    assert main(["check", str(data), "--html", str(page)]) == 3
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?:|//[a-z]|<script|<link|<iframe|@import|url\(", text)
    targets = re.findall(r"(?:src|href)=\"([^\"]*)\"", text)
    assert len(targets) >= 3
    assert all(target.startswith("data:image/jpeg;base64,") for target in targets)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_the_page_shows_at_most_n_images_of_a_finding(data, tmp_path):
    def flatten(content):
        seen = set()
        for row in content["annotations"]:
            if row["image_id"] not in seen:
                row["bbox"][2] = 0
            seen.add(row["image_id"])

    edit(data, flatten)
    page = tmp_path / "page.html"
    main(["check", str(data), "--html", str(page), "--images", "2"])
    section = page.read_text().partition("boxes without area")[2].partition("</section>")[0]
    assert section.count("<image ") == 2
    assert section.count("<li>") == 4  # of six images, two have no objects


def test_class_names_that_are_html_do_no_harm(data, tmp_path):
    evil = "<script>alert(1)</script>\"'&"

    def rename(content):
        content["categories"][0]["name"] = evil
        content["annotations"][0].update(category_id=content["categories"][0]["id"])
        flatten_first_box(content)

    edit(data, rename)
    edit(data, lambda content: content["categories"][0].update(name=evil), "val2017")
    page = tmp_path / "page.html"
    main(["check", str(data), "--html", str(page)])
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in text


def test_all_four_damaged_pictures_of_24_are_named_in_one_pass(tmp_path, capsys):
    (tmp_path / "img").mkdir()
    for row in range(24):
        image = np.random.default_rng(row).integers(60, 120, (48, 64, 3), dtype=np.uint8)
        image[8:37, 10:41] = (250, 30, 30)
        cv2.imwrite(str(tmp_path / "img" / f"{row}.jpg"), image)
    for row in (3, 9, 15, 21):
        (tmp_path / "img" / f"{row}.jpg").write_bytes(b"")
    content = {
        "images": [{"id": row, "file_name": f"{row}.jpg", "width": 64, "height": 48} for row in range(24)],
        "annotations": [{"id": row, "image_id": row, "category_id": 1, "bbox": [10, 8, 31, 29]} for row in range(24)],
        "categories": [{"id": 1, "name": "car"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert main(["check", str(tmp_path / "a.json"), f"data.train.images={tmp_path / 'img'}", "--json", "-"]) == 3
    report = json.loads(capsys.readouterr().out)
    (problem,) = [finding for finding in report["findings"] if finding["severity"] == "problem"]
    assert [place["file"] for place in problem["places"]] == ["3.jpg", "9.jpg", "15.jpg", "21.jpg"]


def test_the_fixed_copy_is_clean_and_says_what_was_done(data, tmp_path, capsys):
    edit(data, flatten_first_box)
    (data / "train2017" / "scene_000003.jpg").write_bytes(b"")
    assert main(["check", str(data), "--fix", str(tmp_path / "clean")]) == 3
    out = capsys.readouterr().out
    assert "boxes without area dropped: 1" in out
    assert "images that cannot be read left out: 1" in out
    assert main(["check", str(tmp_path / "clean")]) == 0


def test_fix_refuses_a_folder_that_holds_something(data, capsys):
    assert main(["check", str(data), "--fix", str(data)]) == 1
    assert "not empty" in capsys.readouterr().err
