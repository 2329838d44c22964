import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from effdet.errors import DataError
from effdet.inference.sources import open_sources, read_frames


def save_image(path, value=100, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def save_video(path, frames=12, size=(48, 64), fps=12.5, codec="mp4v"):
    """A video whose frames grow brighter, orange-ish: much red, no blue."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size[::-1])
    for index in range(frames):
        image = np.zeros((*size, 3), np.uint8)
        image[..., 2], image[..., 1] = 200, 10 * index % 256
        video.write(image)
    video.release()
    return path


def names(sources):
    return [source.name.as_posix() for source in sources]


def test_an_image_is_one_frame(tmp_path):
    path = save_image(tmp_path / "a.png")
    (source,) = open_sources([str(path)])
    (frame,) = source.frames()
    assert (frame.path, frame.name, frame.index, frame.time) == (path, Path("a.png"), None, None)
    assert frame.image.shape == (20, 30, 3)


def test_a_folder_gives_images_and_videos_below_in_natural_order(tmp_path):
    for name in ("img10.jpg", "img2.JPG", "sub/x.png", "img1.webp", ".hidden.jpg", ".cache/y.jpg"):
        save_image(tmp_path / name)
    save_video(tmp_path / "img3.mp4")
    (tmp_path / "notes.txt").write_text("no image")
    assert names(open_sources([tmp_path])) == ["img1.webp", "img2.JPG", "img3.mp4", "img10.jpg", "sub/x.png"]


def test_a_glob_gives_what_matches(tmp_path):
    for name in ("a2.jpg", "a10.jpg", "b.png", "deep/down/a1.jpg"):
        save_image(tmp_path / name)
    assert names(open_sources([str(tmp_path / "*.jpg")])) == ["a2.jpg", "a10.jpg"]
    assert names(open_sources([str(tmp_path / "**" / "a*.jpg")])) == ["a2.jpg", "a10.jpg", "deep/down/a1.jpg"]


def test_a_file_with_glob_characters_in_its_name_is_a_file(tmp_path):
    assert names(open_sources([save_image(tmp_path / "a[1].png")])) == ["a[1].png"]


def test_a_file_named_twice_is_one_source(tmp_path):
    path = save_image(tmp_path / "a.png")
    assert names(open_sources([path, tmp_path, str(tmp_path / "*.png")])) == ["a.png"]


def test_an_image_without_a_suffix_is_known_by_its_content(tmp_path):
    path = save_image(tmp_path / "a.png").rename(tmp_path / "photo")
    assert len(list(open_sources([path]).files[0].frames())) == 1


def test_a_video_with_another_suffix_is_known_by_its_content(tmp_path):
    for name in ("recording", "clip.dav"):
        path = save_video(tmp_path / "a.mp4", frames=3).rename(tmp_path / name)
        assert [frame.index for frame in open_sources([path]).files[0].frames()] == [0, 1, 2]


def test_ids_are_paths_relative_to_the_folder_that_was_given(tmp_path):
    for name in ("a/1.jpg", "b/1.jpg", "b/01.jpg", "000012.png"):
        save_image(tmp_path / name)
    sources = open_sources([tmp_path])
    assert {source.image_id for source in sources} == {"a/1.jpg", "b/1.jpg", "b/01.jpg", "000012.png"}
    assert [frame.image_id for frame in read_frames(sources)] == [source.image_id for source in sources]
    assert [source.image_id for source in open_sources([tmp_path / "b/1.jpg"])] == ["1.jpg"]


def test_ids_are_whole_paths_where_relative_ones_are_not_unique(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "b/1.jpg", "c/a/1.jpg", "c/2.jpg"):
        save_image(tmp_path / name)
    assert [source.image_id for source in open_sources(["a", "b"])] == ["a/1.jpg", "b/1.jpg"]
    ids = [source.image_id for source in open_sources(["a", "b", "c"])]
    assert sorted(ids) == ["a/1.jpg", "b/1.jpg", "c/2.jpg", "c/a/1.jpg"]
    assert [source.image_id for source in open_sources(["a/1.jpg", "./a", "c/2.jpg"])] == ["1.jpg", "2.jpg"]


def test_ids_of_video_frames_have_the_number_of_the_frame(tmp_path):
    frames = read_frames(open_sources([save_video(tmp_path / "clip.avi", frames=3, codec="MJPG")]))
    assert [frame.image_id for frame in frames] == ["clip.avi/0", "clip.avi/1", "clip.avi/2"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.jpg", "no such file or folder"),
        (lambda folder: folder / "*.jpg", "matches no images or videos"),
        (lambda folder: folder, "no images or videos in this folder"),
    ],
)
def test_a_source_without_anything_to_read_is_refused(tmp_path, make, message):
    with pytest.raises(DataError, match=message) as caught:
        open_sources([make(tmp_path)])
    assert str(caught.value).startswith(str(tmp_path))


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt: neither an image nor a video"):
        open_sources([path])


def test_a_file_that_is_no_video_is_refused_before_anything_is_processed(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("hello")
    with pytest.raises(DataError, match=r"clip\.mp4: the video cannot be opened"):
        open_sources([save_image(tmp_path / "a.png"), path])


def test_no_sources_are_refused():
    with pytest.raises(DataError, match="no sources given"):
        open_sources([])


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "mp4v"), ("clip.AVI", "MJPG"), ("clip.mkv", "MJPG")])
def test_a_video_gives_its_frames_in_rgb_with_number_and_time(tmp_path, name, codec):
    (source,) = open_sources([save_video(tmp_path / name, codec=codec)])
    assert source.is_video
    assert source.num_frames == 12
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx([index / 12.5 for index in range(12)])
    red, green, blue = frames[5].image.mean((0, 1))
    assert (red, green, blue) == pytest.approx((200, 50, 0), abs=12)


def test_a_video_that_ends_early_is_reported_after_its_frames(tmp_path):
    path = save_video(tmp_path / "clip.avi", frames=60, codec="MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    failures = []
    frames = list(read_frames(open_sources([path]), failures))
    assert 0 < len(frames) < 47
    assert len(failures) == 1
    assert "of 4.8 seconds" in str(failures[0])


def test_an_unreadable_image_is_reported_and_the_rest_is_read(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        save_image(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"b\.png: the image is cut off"):
        list(read_frames(open_sources([tmp_path])))
    failures = []
    frames = list(read_frames(open_sources([tmp_path]), failures))
    assert [frame.name.name for frame in frames] == ["a.png", "c.png"]
    assert [str(failure).split(":")[0] for failure in failures] == [str(tmp_path / "b.png")]


def test_folders_that_are_links_are_followed_once(tmp_path):
    save_image(tmp_path / "elsewhere/b.png")
    save_image(tmp_path / "photos/a.png")
    (tmp_path / "photos/link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "photos/circle").symlink_to(tmp_path / "photos", target_is_directory=True)
    assert names(open_sources([tmp_path / "photos"])) == ["a.png", "link/b.png"]


# Files that cannot be opened, in folders and by name


@pytest.fixture
def mixed(tmp_path):
    """A folder with two images, an empty video, a TypeScript file and files of other kinds."""
    folder = tmp_path / "mixed"
    for name in ("a.jpg", "sub/b.png"):
        save_image(folder / name)
    (folder / "clip.mp4").touch()
    (folder / "index.ts").write_text("export const a = 1;\n")
    (folder / "module.mts").write_text("export const ä = 'é';\n", encoding="utf-8")
    (folder / "notes.txt").write_text("notes")
    (folder / "sub/more.txt").write_text("notes")
    (folder / "README").write_text("notes")
    (folder / ".hidden.txt").write_text("notes")
    return folder


@pytest.mark.parametrize("pattern", ["", "**/*"])
def test_files_in_a_folder_that_cannot_be_opened_do_not_stop_the_others(mixed, pattern):
    sources = open_sources([mixed / pattern])
    assert names(sources) == ["a.jpg", "sub/b.png"]
    assert [str(failure) for failure in sources.failures] == [
        f"{mixed / 'clip.mp4'}: the file is empty; expected a video, copy it again or remove it"
    ]
    assert sources.notes() == ["passed over: 2 .txt, 1 .mts, 1 .ts, 1 without suffix"]


def test_a_file_named_by_itself_is_refused_if_it_cannot_be_opened(mixed):
    for name in ("clip.mp4", "index.ts", "notes.txt"):
        with pytest.raises(DataError, match=name):
            open_sources([mixed, mixed / name])


def test_a_file_that_is_searched_twice_is_counted_once(mixed):
    sources = open_sources([mixed, mixed / "*", mixed / "sub"])
    assert names(sources) == ["a.jpg", "sub/b.png"]
    assert len(sources.failures) == 1
    assert sources.notes() == open_sources([mixed]).notes()


def test_folders_without_anything_to_open_say_what_they_hold(tmp_path):
    for name in ("a.pdf", "b.PDF", "c.txt"):
        (tmp_path / name).write_text("?")
    with pytest.raises(
        DataError, match=r"no images or videos in this folder or below; .*; there are 2 \.pdf, 1 \.txt$"
    ):
        open_sources([tmp_path])
    (tmp_path / "index.ts").write_text("export const a = 1;\n")
    with pytest.raises(DataError, match=r"no images or videos that can be read; there are 2 \.pdf, 1 \.ts, 1 \.txt$"):
        open_sources([tmp_path])
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(DataError, match=r"no image or video can be opened\n.*clip\.mp4: the file is empty"):
        open_sources([tmp_path])


def test_a_subfolder_that_cannot_be_read_is_reported_and_the_others_are_searched(tmp_path, monkeypatch):
    for name in ("a.png", "locked/b.png", "open/c.png"):
        save_image(tmp_path / name)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    sources = open_sources([tmp_path])
    assert names(sources) == ["a.png", "open/c.png"]
    locked = tmp_path / "locked"
    assert [str(failure) for failure in sources.failures] == [f"{locked}: the folder cannot be read: Permission denied"]
    with pytest.raises(DataError, match="locked: the folder cannot be read"):
        open_sources([locked])


def test_heic_is_passed_over_without_the_package_that_reads_it(tmp_path, monkeypatch):
    save_image(tmp_path / "a.jpg")
    (tmp_path / "b.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr("effdet.inference.search.find_spec", lambda name: None)
    (note,) = open_sources([tmp_path]).notes()
    assert note == "passed over: 1 .heic (to read HEIC, pip install 'efficientdet-torch[heic]')"


# Files that may be anything


def test_names_never_leave_the_folder(tmp_path):
    save_image(tmp_path / "d/x.jpg")
    save_image(tmp_path / "d/a/b/y.jpg")
    (tmp_path / "d/a/c").mkdir()
    assert names(open_sources([str(tmp_path / "d/a/*/../../x.jpg")])) == ["x.jpg"]
    assert names(open_sources([str(tmp_path / "d/a/*/../*/y.jpg")])) == ["b/y.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("pattern", ["", "*", "**/*"])
def test_pipes_are_listed_and_never_waited_for(tmp_path, pattern):
    save_image(tmp_path / "a.jpg")
    for name in ("pipe.jpg", "pipe.mp4", "pipe"):
        os.mkfifo(tmp_path / name)
    sources, failures = open_sources([tmp_path / pattern]), []
    assert [frame.name.name for frame in read_frames(sources, failures)] == ["a.jpg"]
    assert sorted(map(str, [*failures, *sources.failures])) == [
        f"{tmp_path / 'pipe.jpg'}: is a pipe; expected an image file, remove it from the folder",
        f"{tmp_path / 'pipe.mp4'}: is a pipe; expected a video file, remove it from the folder",
    ]
    for name in ("pipe.mp4", "pipe"):
        with pytest.raises(DataError, match="is a pipe"):
            open_sources([tmp_path / name])


@pytest.mark.skipif(sys.platform != "linux", reason="names are text on this system")
def test_names_may_be_no_utf8(tmp_path):
    save_image(tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"\xff.foo"))
    save_image(tmp_path / "a.ppm").rename(tmp_path / os.fsdecode(b"\xfe.bar"))
    save_video(tmp_path / "a.avi", frames=3, codec="MJPG").rename(tmp_path / os.fsdecode(b"\xff.avi"))
    save_video(tmp_path / "a.avi", frames=3, codec="MJPG").rename(tmp_path / os.fsdecode(b"\xff.dat"))
    for path in sorted(tmp_path.iterdir()):
        frames = [frame for source in open_sources([path]) for frame in source.frames()]
        assert len(frames) == (3 if path.suffix in (".avi", ".dat") else 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a", b"P5 30 20 255\n" + bytes(600)),
        ("b", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 20 +X 30\n" + bytes(2400)),
    ],
)
def test_rare_images_without_a_suffix_are_known_by_their_content(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert [source.is_video for source in open_sources([tmp_path / name])] == [False]


def test_a_text_that_begins_as_an_image_is_none(tmp_path):
    (tmp_path / "notes").write_text("P5 is the name of a format\n")
    with pytest.raises(DataError, match="neither an image nor a video"):
        open_sources([tmp_path / "notes"])


@pytest.mark.parametrize("name", ["a\0.jpg", "x" * 5000 + ".jpg", "d/" * 3000 + "a.jpg", "x" * 300 + "*"])
def test_paths_that_no_disk_can_hold_are_refused(name):
    with pytest.raises(DataError):
        open_sources([name])


# Output folders


def test_what_lies_in_the_output_folder_is_left_out_and_counted(tmp_path):
    photos = tmp_path / "photos"
    for name in ("a.jpg", "b.jpg", "out/a.jpg", "out/deep/b.jpg", "output/c.jpg"):
        save_image(photos / name)
    (photos / "out/predictions.json").write_text("[]")
    for given in (photos, photos / "**" / "*.jpg"):
        sources = open_sources([given], leave_out=[photos / "out"])
        assert names(sources) == ["a.jpg", "b.jpg", "output/c.jpg"]
        assert sources.notes() == [f"left out: 2 files in {photos / 'out'}, an output folder"]


def test_the_output_folder_may_be_spelled_in_another_way(tmp_path, monkeypatch):
    save_image(tmp_path / "photos/a.jpg")
    save_image(tmp_path / "photos/out/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "photos", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "photos")
    assert names(open_sources([tmp_path / "photos"], leave_out=[Path("out")])) == ["a.jpg"]
    assert names(open_sources([Path()], leave_out=[tmp_path / "link/out"])) == ["a.jpg"]


def test_what_is_named_in_an_output_folder_is_read(tmp_path):
    """Also the folder itself: with `--out .` all folders are in the output folder."""
    path = save_image(tmp_path / "out/photos/a.jpg")
    out = tmp_path / "out"
    for given in (path, path.parent, out):
        assert len(open_sources([given], leave_out=[out])) == 1
