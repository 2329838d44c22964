from pathlib import Path

import pytest

from effdet.data.formats.image_files import find_image


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
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
    ],
)
def test_an_image_has_several_valid_spellings(tmp_path, on_disk, written):
    folder = tmp_path / "images"
    (folder / on_disk).parent.mkdir(parents=True)
    (folder / on_disk).write_bytes(b"x")
    path = find_image(folder, written)
    assert path is not None
    assert path.samefile(folder / on_disk)


def test_a_missing_image_is_none(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jpg").write_bytes(b"x")
    for name in ("a.jpg", "sub", "", "other/b.jpg", "b.png"):
        assert find_image(tmp_path, name) is None


def test_existing_absolute_paths_are_used(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert find_image(Path("/nowhere"), str(tmp_path / "a.jpg")) == tmp_path / "a.jpg"
