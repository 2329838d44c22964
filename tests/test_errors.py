"""What the messages of errors hold of the data of others."""

from effdet.errors import DataError


def test_a_message_of_usual_length_stays_as_it_is():
    assert str(DataError("a.json: no such file\ncheck the path")) == "a.json: no such file\ncheck the path"


def test_a_message_of_thousands_of_characters_keeps_its_start_and_its_advice():
    message = str(DataError(f"a.json: the class '{'x' * 100_000}' is unknown; rename it"))
    assert len(message) < 4000
    assert message.startswith("a.json: the class 'xxx")
    assert message.endswith("xxx' is unknown; rename it")
