from pathlib import Path

import pytest

from effdet.errors import ConfigError
from effdet.inference.output_folder import list_pictures, numbered_folders, prepare_folder


@pytest.fixture
def earlier(tmp_path):
    """An output folder with the results of an earlier prediction, a picture in a subfolder, and a file of the user."""
    out = tmp_path / "out"
    for name in ("predictions.json", "predictions.csv", "a.jpg", "sub/b.png", "mine.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    list_pictures(out, {Path("photos/a.jpg"): out / "a.jpg", Path("photos/sub/b.gif"): out / "sub/b.png"})
    return out


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_default_folders_are_those_with_numbers(tmp_path):
    first = tmp_path / "runs/predict"
    assert numbered_folders(first) == [first]
    for name in ("predict", "predict-2", "predict-10", "predict-old", "predicted"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert numbered_folders(first) == [first, tmp_path / "runs/predict-10", tmp_path / "runs/predict-2"]


def test_a_folder_without_results_is_used(tmp_path):
    prepare_folder(tmp_path / "none", {}, overwrite=False)
    (tmp_path / "mine.txt").write_text("mine")
    prepare_folder(tmp_path, {Path("a.jpg"): tmp_path / "a.jpg"}, overwrite=False)
    assert files_in(tmp_path) == ["mine.txt"]


def test_earlier_results_are_refused_and_stay(earlier):
    before = files_in(earlier)
    message = r"out: holds 3 files that would be overwritten, such as predictions\.json; .* --overwrite"
    with pytest.raises(ConfigError, match=message):
        prepare_folder(earlier, {}, overwrite=False)
    assert files_in(earlier) == before


def test_a_file_with_the_name_of_a_picture_is_refused_and_stays(tmp_path):
    (tmp_path / "a.jpg").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 1 file that would be overwritten, such as a\.jpg"):
        prepare_folder(tmp_path, {Path("in/a.jpg"): tmp_path / "a.jpg"}, overwrite=False)
    assert files_in(tmp_path) == ["a.jpg"]


def test_overwrite_removes_what_the_earlier_prediction_wrote_and_nothing_else(earlier):
    prepare_folder(earlier, {Path("photos/c.jpg"): earlier / "c.jpg"}, overwrite=True)
    assert files_in(earlier) == ["mine.txt"]


def test_overwrite_removes_nothing_outside_the_folder(earlier, tmp_path):
    (tmp_path / "mine.jpg").write_text("mine")
    (earlier / "pictures.csv").write_text(f"file_name,picture\na.jpg,../mine.jpg\nb.jpg,{tmp_path / 'mine.jpg'}\n")
    prepare_folder(earlier, {}, overwrite=True)
    assert files_in(tmp_path) == ["mine.jpg", "out/a.jpg", "out/mine.txt", "out/sub/b.png"]


def test_a_source_is_never_removed(earlier):
    before = files_in(earlier)
    with pytest.raises(ConfigError, match=r"sub/b\.png: is an annotated picture that --overwrite would remove"):
        prepare_folder(earlier, {earlier / "sub/b.png": earlier / "b.png"}, overwrite=True)
    assert files_in(earlier) == before


def test_the_list_of_pictures_names_those_that_exist(tmp_path):
    (tmp_path / "a_2.jpg").write_text("picture")
    list_pictures(tmp_path, {Path("x/a.jpg"): tmp_path / "a_2.jpg", Path("x/damaged.jpg"): tmp_path / "damaged.jpg"})
    assert (tmp_path / "pictures.csv").read_text() == "file_name,picture\nx/a.jpg,a_2.jpg\n"


def test_overwriting_replaces_results_and_no_other_pictures(tmp_path):
    folder, picture = tmp_path / "photos", tmp_path / "photos/a.jpg"
    folder.mkdir()
    picture.write_text("a photo")
    paths = {Path("backup/a.jpg"): picture}
    with pytest.raises(
        ConfigError, match=r"a\.jpg: exists, and no earlier prediction wrote it \(1 such file\); --overw"
    ):
        prepare_folder(folder, paths, True)
    assert picture.read_text() == "a photo"
    list_pictures(folder, paths)
    prepare_folder(folder, paths, True)
    assert not picture.exists()


def test_what_a_killed_prediction_left_is_replaced(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / ".predictions.json.process-0.partial").touch()
    prepare_folder(tmp_path, {Path("backup/a.jpg"): tmp_path / "a.jpg"}, True)


def test_pictures_are_not_written_through_links_out_of_the_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/inside").mkdir(parents=True)
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "out/link").symlink_to(tmp_path / "out/inside", target_is_directory=True)
    prepare_folder(tmp_path / "out", {Path("link/a.jpg"): tmp_path / "out/link/a.jpg"}, False)
    with pytest.raises(
        ConfigError, match=r"sub: is a link to .*elsewhere, outside of the output folder; choose another"
    ):
        prepare_folder(tmp_path / "out", {Path("sub/a.jpg"): tmp_path / "out/sub/a.jpg"}, False)
