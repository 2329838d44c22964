"""YAML and JSON of others: what is refused, and with which words."""

import json

import pytest

from effdet.plain_data import parse_json, parse_yaml

ALIASES = "a: &a0 [x]\n" + "".join(f"b{i}: &a{i} [{','.join([f'*a{i - 1}'] * 30)}]\n" for i in range(1, 9))


def test_yaml_is_read_as_in_recipes():
    assert parse_yaml("a: 1e-3\nb: &x [1, no]\nc: *x") == {"a": 1e-3, "b": [1, False], "c": [1, False]}
    assert parse_yaml("007: no", as_texts=True) == {"007": "no"}
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "a: &a0 [x,x]\n" + "".join(f"b{i}: &a{i} [{','.join([f'*a{i - 1}'] * 30)}]\n" for i in range(1, 9)),
            "aliases",
        ),
        ("a: &a [*a]", "aliases stand for more"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: 1\na: 2", "key 'a' appears twice"),
        ("{[1]: 2}", "unhashable key"),
        ("a: \0", "unacceptable character"),
        ("a: 2001-02-30", "day is out of range"),
    ],
)
@pytest.mark.parametrize("as_texts", [False, True])
def test_yaml_that_is_refused_says_why(text, reason, as_texts):
    if as_texts and reason not in ("aliases", "aliases stand for more", "nested too deeply", "unacceptable character"):
        return
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text, as_texts)


def test_twenty_thousand_keys_are_read_in_linear_time():
    tree = parse_yaml("{" + ", ".join(f"c{number}: 1" for number in range(20_000)) + "}")
    assert len(tree) == 20_000


@pytest.mark.parametrize("text", ['{"a": "\\ud83d\\ude00 \\\\ud800 \\\\udcim"}', '["\U0001f600"]'])
@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-16"])
def test_whole_characters_pass(text, encoding):
    assert parse_json(text if encoding is None else text.encode(encoding)) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('["\\ud800"]', "holds half of a character"),
        ('{"\\udc00a": 1}', "holds half of a character"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "a number of thousands of digits"),
    ],
)
def test_json_that_is_refused_says_why(text, reason):
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=reason):
            parse_json(form)


@pytest.mark.parametrize(
    "text",
    [
        'a: "\\ud800"',
        'a: "\\U0000DFFF"',
        'a: "\\UFFFFFFFF"',
        "a: !!timestamp x",
        "a: !!bool x",
        "a: !!int x",
        "a: !!python/object:os.system x",
        f"a: {'9' * 5000}",
        "a: 2001-99-99",
    ],
)
def test_yaml_with_odd_characters_numbers_and_tags_is_refused(text):
    with pytest.raises(ValueError):
        parse_yaml(text)


def test_half_characters_are_seen_in_wide_json_too():
    for encoding in ("utf-8", "utf-16", "utf-32-le"):
        with pytest.raises(ValueError, match="half of a character"):
            parse_json('{"a": "\\ud800"}'.encode(encoding))
