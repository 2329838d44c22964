import numpy as np
import pytest

from effdet.report import text
from effdet.report.text import put_text, text_size

WHITE = (255, 255, 255)


def drawn(line, scale=1.0, color=WHITE, background=0):
    canvas = np.full((60, 900, 3), background, np.uint8)
    put_text(canvas, line, (10, 40), color, scale)
    return canvas


@pytest.fixture
def no_system_fonts(monkeypatch):
    """A machine that has only the font which comes with matplotlib."""
    caches = (text._font_with, text._rendered, text._rendered_run)
    monkeypatch.setattr(text, "_system_fonts", list)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


@pytest.mark.parametrize("line", ["car 0.93", "Straße", "кошка", "قطة 0.93", "חתול", "😀 1", "É"])
def test_the_size_of_a_text_is_that_of_its_ink(line):
    rows, columns = np.nonzero(drawn(line).max(axis=2))
    width, above, below = text_size(line, 1.0)
    assert 40 - above <= rows.min()
    assert rows.max() < 40 + below
    assert columns.min() >= 8
    assert width - 6 < columns.max() - 9 <= width + 1


def test_capital_letters_are_21_pixels_high_at_scale_1():
    rows, _ = np.nonzero(drawn("E").max(axis=2))
    assert np.ptp(rows) + 1 == pytest.approx(21, abs=1)
    for scale in (0.35, 0.4, 2):
        assert text_size("E", scale)[1] == pytest.approx(21 * scale, abs=1.5)


def test_ink_has_the_color_and_leaves_the_background():
    canvas = drawn("E", color=(200, 30, 10), background=90)
    colors = np.unique(canvas.reshape(-1, 3), axis=0).tolist()
    assert [200, 30, 10] in colors
    assert (canvas[:, :9] == 90).all()
    assert (canvas[:10] == 90).all()


@pytest.mark.parametrize(("first", "second"), [("شجرة", "قطة"), ("кот", "пёс"), ("קט", "חת"), ("😀", "😁")])
def test_names_in_other_scripts_differ(first, second):
    assert (drawn(first) != drawn(second)).any()
    assert (drawn(first) != drawn("?" * len(first))).any()


def test_characters_without_a_font_are_drawn_as_escapes(no_system_fonts):
    assert text._runs("猫 cat 0.93") == text._runs("\\u732b cat 0.93")
    assert text_size("猫 cat", 1)[0] == pytest.approx(text_size("\\u732b cat", 1)[0], abs=3)
    assert text_size("\U000e0041x", 1)[0] == text_size("x", 1)[0]  # invisible without a font


def test_a_font_of_the_machine_is_used_where_it_has_the_character(monkeypatch):
    names = {"a.ttf": [], "b.ttf": [0x732B]}
    monkeypatch.setattr(text, "_system_fonts", lambda: list(names))
    monkeypatch.setattr(text, "_has", lambda path, character: ord(character) in names.get(path, range(128)))
    text._font_with.cache_clear()
    assert [run for run, _ in text._runs("a猫b犬")] == ["a", "猫", "b\\u72ac"]
    assert [path == "b.ttf" for _, path in text._runs("a猫b")] == [False, True, False]
    text._font_with.cache_clear()


def test_fonts_that_cannot_be_opened_have_no_characters(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert len(text._codes(str(tmp_path / "broken.ttf"))) == 0


@pytest.mark.parametrize("line", ["", " ", "  a  b ", "\n", "\u200d", "é", "\ud800"])
@pytest.mark.parametrize("position", [(-20, 5), (3, 3), (9, 70), (95, 20), (200, -40)])
def test_any_text_is_drawn_at_any_position(line, position):
    canvas = np.zeros((30, 100, 3), np.uint8)
    for scale in (0.01, 0.4, 3):
        put_text(canvas, line, position, WHITE, scale)
        assert all(size >= 0 for size in text_size(line, scale))


def test_of_a_text_of_a_million_characters_the_start_is_drawn():
    assert text_size("y" * 1_000_000, 0.5) == text_size("y" * 498 + "..", 0.5)
