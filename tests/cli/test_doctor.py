import json

import pytest

from effdet.cli import main

SIZE = (90, 120)  # (H, W)


def write_files(folder, change=lambda row: None):
    """A COCO file of images with objects of three classes, and the same boxes as predictions after a change."""
    images, objects = [], []
    for image in range(12):
        images.append({"id": image + 1, "file_name": f"{image}.jpg", "height": SIZE[0], "width": SIZE[1]})
        for place in range(3):
            box = [5 + 38 * place + image, 8 + 9 * place + image % 5, 20 + 2 * place + image % 7, 30 - 5 * place]
            category = 1 + (image + place) % 3
            objects.append({"id": len(objects) + 1, "image_id": image + 1, "category_id": category, "bbox": box})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(("cat", "dog", "hen"))]
    truth, results = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    rows = [{**row, "score": 0.9 - 0.001 * number} for number, row in enumerate(objects)]
    for row in rows:
        change(row)
    results.write_text(json.dumps(rows))
    return ["doctor", "--annotations", str(truth), "--predictions", str(results)]


def test_sound_predictions_end_with_status_0(tmp_path, capsys):
    assert main(write_files(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["what", "was", "changed", "AP", "%", "before"]
    assert lines[-1].startswith("no fault found: AP is 100.0%, and none of ")


def test_the_cause_is_the_last_line_and_the_status_is_1(tmp_path, capsys):
    arguments = write_files(tmp_path, lambda row: row.update(category_id=row["category_id"] % 3 + 1))
    assert main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "the predicted labels are one too high, cat stands for hen, dog stands for cat, hen stands for dog: AP is "
        "100.0% with this undone instead of 0.0%; count the classes from 0 in the order of the category ids, without a "
        "class for the background"
    )
    (row,) = [line for line in lines if line.startswith("labels -1")]
    assert row.split() == ["labels", "-1", "100.0", "0.0", "jumps"]


def test_what_is_left_out_is_counted(tmp_path, capsys):
    def change(row):
        if row["id"] < 5:
            row["image_id"] = 1000
        if row["id"] == 36:
            row["score"] = "high"

    assert main(write_files(tmp_path, change)) == 0
    printed = capsys.readouterr().out
    assert "4 of 35 predictions left out, because the annotations do not have their image_id: 1000" in printed
    assert "1 prediction left out: bbox or score is NaN, Inf or beyond 1,000,000,000" in printed


def test_an_empty_results_file_is_explained(tmp_path, capsys):
    arguments = write_files(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    assert main(arguments) == 1
    assert "there are no predictions for 12 images with objects" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the folder of a run or a model file; or --annotations and --predictions, without a run"),
        (["--annotations", "truth.json"], "--annotations and --predictions go together"),
        (["runs/x", "--annotations", "a.json", "--predictions", "b.json"], "without a run"),
        (["data.root=/data/mine"], "'data.root=/data/mine' is a change of the recipe; give the folder of a run"),
        (["runs/x", "--images", "0"], "--images is 0; expected at least 1"),
        (["absent/best.pt"], "no such weights file"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments, message, capsys):
    assert main(["doctor", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", '{"rows": 1}', '[{"image_id": 1}]', '"text"'])
def test_files_of_another_kind_are_refused(tmp_path, content, capsys):
    arguments = write_files(tmp_path)
    (tmp_path / "results.json").write_text(content)
    assert main(arguments) == 1
    assert "results.json: " in capsys.readouterr().err


def test_a_run_is_diagnosed(tiny_run, capsys):
    assert main(["doctor", str(tiny_run), "--images", "4", "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "running the model on 4 validation images" in printed
    assert "red and blue exchanged" in printed
