import pytest

from effdet.text import count_of, name_cell, path_cell, percent, reason_of, some_of


@pytest.mark.parametrize(("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1000, "1000 images")])
def test_one_thing_has_a_noun_in_the_singular(count, text):
    assert count_of(count, "image") == text


def test_an_irregular_plural_is_given():
    assert count_of(1, "class", "classes") == "1 class"
    assert count_of(80, "class", "classes") == "80 classes"


def test_the_reason_of_an_error_is_its_first_line_or_its_type():
    assert reason_of(ValueError("\nno such operator\nat line 3")) == "no such operator"
    assert reason_of(KeyboardInterrupt()) == "KeyboardInterrupt"


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(first):
    assert path_cell(f"{first}cmd.jpg") == f"./{first}cmd.jpg"
    assert name_cell(f"{first}cmd") == f"'{first}cmd"


@pytest.mark.parametrize("name", ["cat", "a=b", "+", "-", "-5", "+1e3", "", "'quoted'"])
def test_other_names_stay_as_they_are(name):
    assert name_cell(name) == name


def test_a_fraction_is_written_in_percent_and_what_was_not_measured_as_a_dash():
    assert [percent(value) for value in (0, 0.1234, 1, -1, None)] == ["0.0", "12.3", "100.0", "\u2013", "\u2013"]
    assert percent(0.5, 0) == "50"


def test_a_list_of_names_ends_with_dots_if_there_are_more():
    assert [some_of(names, 2) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a, b", "a, b, ..."]
