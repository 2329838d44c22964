import os
import unicodedata
from pathlib import Path

import pytest

from effdet.data.formats.image_files import find_image, find_images, under_other_names
from effdet.errors import DataError

SOURCE = Path("boxes.json")


def draw(folder, *names):
    """Writes files; find_images does not look into them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def located(folder, *names):
    """The files that are located under names, which are not the names of other files."""
    existing, missing = find_images(SOURCE, folder, names)
    assert not missing
    return existing


SPELLINGS = [
    ("a.jpg", "a.jpg"),
    ("a.jpg", "./a.jpg"),
    ("sub/a.jpg", "sub/a.jpg"),
    ("sub/a.jpg", "sub\\a.jpg"),
    ("sub/a.jpg", ".\\sub\\a.jpg"),
    ("a b.jpg", "a%20b.jpg"),
    ("a%20b.jpg", "a%20b.jpg"),
    ("a.jpg", "/home/someone/images/a.jpg"),
    ("a.jpg", "C:\\images\\a.jpg"),
    ("a.jpg", "images/a.jpg"),
    ("a.JPG", "a.jpg"),
    ("a.jpg", "a.JPG"),
    ("a.png", "a"),
    ("a.PNG", "a"),
    ("a.b.png", "a.b"),
]


@pytest.mark.parametrize(("on_disk", "written"), SPELLINGS)
def test_an_image_has_several_valid_spellings(tmp_path, on_disk, written):
    folder = tmp_path / "images"
    (folder / on_disk).parent.mkdir(parents=True)
    (folder / on_disk).write_bytes(b"x")
    path = find_image(folder, written)
    assert path is not None
    assert path.samefile(folder / on_disk)
    assert located(folder, written) == [on_disk]


def test_a_missing_image_is_none(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jpg").write_bytes(b"x")
    for name in ("a.jpg", "sub", "", "other/b.jpg", "b.png"):
        assert find_image(tmp_path, name) is None


def test_absolute_paths_below_the_folder_are_used_and_others_are_not(tmp_path):
    draw(tmp_path, "images/a.jpg", "other/b.jpg")
    assert find_image(tmp_path / "images", str(tmp_path / "images/a.jpg")) == tmp_path / "images/a.jpg"
    assert find_image(tmp_path / "images", str(tmp_path / "other/b.jpg")) is None
    assert find_image(tmp_path / "images", "../other/b.jpg") is None


DECOMPOSED, COMPOSED = (unicodedata.normalize(form, "Café ü.jpg") for form in ("NFD", "NFC"))

# What is on disk; what is written; what is located; whether that is a guess to be shown.
NAMES = [
    # paths of other machines
    (["cam/0.jpg"], "D:\\data\\cam\\0.jpg", "cam/0.jpg", True),
    (["images/cb0618f0-shot.jpg"], "..\\..\\label-studio\\media\\upload\\4\\cb0618f0-shot.jpg", None, True),
    (["a/b/0.jpg", "c/b/0.jpg"], "/home/ann/a/b/0.jpg", "a/b/0.jpg", True),
    (["0.jpg"], "\\\\server\\share\\0.jpg", "0.jpg", True),
    (["0.jpg"], "file:///home/ann/0.jpg", "0.jpg", True),
    # two folders deep
    (["x/y/0.jpg", "x/z/0.jpg"], "E:/all/x/z/0.jpg", "x/z/0.jpg", True),
    (["deep/er/0.jpg"], "0.jpg", "deep/er/0.jpg", True),
    # addresses
    (["a.jpg"], "http://example.org/media/a.jpg", "a.jpg", True),
    (["a.jpg"], "https://example.org/a.jpg?token=1/2", "a.jpg", True),
    (["cam/a.jpg"], "s3://bucket/cam/a.jpg", "cam/a.jpg", True),
    (["cam/a.jpg"], "gs://bucket/cam%2Fa.jpg", "cam/a.jpg", True),
    (["cam/a.jpg"], "/data/local-files/?d=cam/a.jpg", "cam/a.jpg", False),
    (["cam 1/a.jpg"], "/data/local-files/?d=cam%201%5Ca.jpg", "cam 1/a.jpg", False),
    # spelling
    ([DECOMPOSED], COMPOSED, DECOMPOSED, False),
    ([COMPOSED], DECOMPOSED, COMPOSED, False),
    ([COMPOSED], f"D:\\{DECOMPOSED}", COMPOSED, False),
    ([COMPOSED], "caf%C3%A9 %C3%BC.jpg", COMPOSED, False),
    (["a+b.jpg"], "a%2Bb.jpg", "a+b.jpg", False),
    (["a+b.jpg"], "x/a+b.jpg", "a+b.jpg", True),
    (["a%20b.jpg"], "a b.jpg", "a%20b.jpg", False),
    (["a.jpg"], " a.jpg ", "a.jpg", False),
    (["a.jpg"], ".//a.jpg", "a.jpg", False),
    (["a.jpg"], "../images/a.jpg", "a.jpg", False),
    (["Sub/A.JPG"], "sub\\a.jpg", "Sub/A.JPG", False),
    (["STRASSE.jpg"], "straße.jpg", "STRASSE.jpg", False),
    # suffixes
    (["a.jpg"], "a.png", "a.jpg", True),
    (["a.jpg", "a.txt"], "a.png", "a.jpg", True),
    (["b/a.webp"], "D:/b/a.JPEG", "b/a.webp", True),
    (["a.b.jpg"], "a.b", "a.b.jpg", False),
    (["A.JPG"], "a", "A.JPG", False),
    # several that fit: the longest end, then the exact spelling, then the complete name
    (["a.jpg", "A.jpg"], "D:\\A.jpg", "A.jpg", False),
    (["a.jpg", "a.png"], "D:\\a.png", "a.png", False),
    (["a.jpg", "backup/a.jpg"], "A.JPG", "a.jpg", False),
    (["a.jpg", "backup/a.jpg"], "images/a.jpg", "a.jpg", False),
    (["a.jpg", "backup/a.png"], "a.bmp", "a.jpg", True),
]


@pytest.mark.parametrize(("on_disk", "written", "wanted", "guessed"), NAMES)
def test_a_foreign_name_is_matched_by_the_longest_end_of_its_path(tmp_path, on_disk, written, wanted, guessed):
    folder = tmp_path / "images"
    draw(folder, *on_disk)
    (existing,) = located(folder, written)
    assert existing == (wanted or on_disk[0])
    assert under_other_names(folder, [written], [existing]) == [f"'{written}' as '{existing}'"] * guessed


@pytest.mark.parametrize(
    ("on_disk", "written", "first", "second"),
    [
        (["a/0.jpg", "b/0.jpg"], "0.jpg", "a/0.jpg", "b/0.jpg"),
        (["a/0.jpg", "b/0.jpg"], "D:\\c\\0.jpg", "a/0.jpg", "b/0.jpg"),
        (["a/c/0.jpg", "b/c/0.jpg", "0.jpg"], "/x/c/0.jpg", "a/c/0.jpg", "b/c/0.jpg"),
        (["0.bmp", "0.png"], "0.jpg", "0.bmp", "0.png"),
        (["A.jpg", "a.jpg"], "x/a.JPG", "A.jpg", "a.jpg"),
    ],
)
def test_two_files_that_fit_one_name_equally_are_refused(tmp_path, on_disk, written, first, second):
    draw(tmp_path, *on_disk)
    with pytest.raises(DataError, match=r"^boxes\.json: .* may be .*; set the image folder to the one") as error:
        find_images(SOURCE, tmp_path, [written])
    assert f"'{written}' may be '{first}' or '{second}' in {tmp_path}" in str(error.value)


@pytest.mark.parametrize(
    ("on_disk", "one", "other", "file"),
    [
        (["0000.jpg"], "D:\\data\\a\\0000.jpg", "D:\\data\\b\\0000.jpg", "0000.jpg"),
        (["0000.jpg"], "0000.jpg", "D:\\data\\b\\0000.jpg", "0000.jpg"),
        (["a/0000.jpg"], "a/0000.jpg", "b/0000.jpg", "a/0000.jpg"),
        (["0.jpg"], "0.jpg", "0.png", "0.jpg"),
        (["0.jpg"], "0.bmp", "0.png", "0.jpg"),
        (["0.jpg"], "s3://one/0.jpg", "s3://two/0.jpg", "0.jpg"),
        (["a/0.jpg"], "x/a/0.jpg", "y/a/0.jpg", "a/0.jpg"),
    ],
)
def test_two_names_of_one_file_are_refused_with_both(tmp_path, on_disk, one, other, file):
    draw(tmp_path, *on_disk)
    with pytest.raises(DataError, match="keep images of the same name in folders") as error:
        find_images(SOURCE, tmp_path, [one, other])
    assert f"boxes.json: '{one}' and '{other}' would both be the file '{file}' in {tmp_path}" in str(error.value)


def test_names_that_differ_in_their_spelling_alone_have_one_file(tmp_path):
    folder = tmp_path / "images"
    draw(folder, "sub/a b.jpg")
    names = ["sub/a b.jpg", "./sub/a b.jpg", "sub\\a b.jpg", "sub/a%20b.jpg", "images/sub/A B.JPG", "sub/a b"]
    names.append(str(folder / "sub/a b.jpg"))
    assert located(folder, *names) == ["sub/a b.jpg"] * len(names)
    assert under_other_names(folder, names, located(folder, *names)) == []


def test_a_foreign_name_may_be_repeated(tmp_path):
    draw(tmp_path, "a.jpg")
    assert located(tmp_path, "D:\\x\\a.jpg", "D:\\x\\a.jpg") == ["a.jpg", "a.jpg"]


def test_missing_images_keep_their_names(tmp_path):
    draw(tmp_path, "a.jpg", "notes.txt", ".hidden/b.jpg", "._c.jpg", "sub/d.jpg")
    names = ["a.jpg", "b.jpg", "c.jpg", "sub", "", "x/e.jpg", "notes.jpg", "n" * 300, "nul\0.jpg"]
    assert find_images(SOURCE, tmp_path, names) == (names, names[1:])


def test_no_name_leads_out_of_the_folder(tmp_path):
    draw(tmp_path, "other/a.jpg", "images/b.jpg")
    names = [str(tmp_path / "other/a.jpg"), "../other/a.jpg", "sub/../../other/a.jpg", "/proc/self/environ"]
    existing, missing = find_images(SOURCE, tmp_path / "images", [*names, "b.jpg"])
    assert missing == names
    for name in existing[:-1]:
        assert not os.path.isabs(name)
        assert ".." not in name
        assert not (tmp_path / "images" / name).exists()


def test_links_in_the_folder_are_followed_but_not_back_out_of_their_targets(tmp_path):
    draw(tmp_path, "disk/shots/a.jpg", "disk/secret.jpg", "images/b.jpg")
    (tmp_path / "images/cam").symlink_to(tmp_path / "disk/shots", target_is_directory=True)
    (tmp_path / "images/c.jpg").symlink_to(tmp_path / "disk/shots/a.jpg")
    assert located(tmp_path / "images", "cam/a.jpg", "c.jpg") == ["cam/a.jpg", "c.jpg"]
    _, missing = find_images(SOURCE, tmp_path / "images", ["cam/../secret.jpg"])
    assert missing == ["cam/../secret.jpg"]


def test_relative_and_absolute_folders_give_the_same_names(tmp_path, monkeypatch):
    draw(tmp_path, "images/sub/a.jpg")
    monkeypatch.chdir(tmp_path)
    names = [str(tmp_path / "images/sub/a.jpg"), "images/sub/A.jpg", "./sub/a.jpg"]
    for folder in (Path("images"), tmp_path / "images"):
        assert located(folder, *names) == ["sub/a.jpg"] * 3
        assert under_other_names(folder, names, ["sub/a.jpg"] * 3) == []


def test_names_that_are_no_unicode_are_located(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        draw(tmp_path, f"sub/{name}")
    except OSError:
        pytest.skip("the file system has Unicode names alone")
    assert located(tmp_path, f"D:\\{name}") == [f"sub/{name}"]


def test_links_that_lead_in_circles_are_followed_once(tmp_path):
    draw(tmp_path, "real/sub/a.jpg")
    for link in ("real/one", "real/two", "real/sub/back"):
        (tmp_path / link).symlink_to(tmp_path / "real", target_is_directory=True)
    assert located(tmp_path, "D:\\sub\\a.jpg") == ["real/sub/a.jpg"]


def test_many_images_of_one_base_name_are_matched_by_their_folders(tmp_path):
    draw(tmp_path, *(f"run{number}/frame.jpg" for number in range(3000)))
    names = [f"D:\\all\\run{number}\\frame.png" for number in range(3000)]
    assert located(tmp_path, *names) == [f"run{number}/frame.jpg" for number in range(3000)]
