"""What counts as a fault of a command."""

import json

import pytest

from .commands import Ending
from .expectations import faults_of, state_of


def ended(status=0, stdout="", stderr="", hung=False, left=()):
    return Ending(status, stdout, stderr, hung, left)


SENTENCE = "error: a.jpg: no such file; give another\n"
TRACEBACK = "Traceback (most recent call last):\n  File ...\nKeyError: 1\n"


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        (ended(), None),
        (ended(1, stderr=SENTENCE), None),
        (ended(143, stderr="stopping after this step\nterminated\n"), None),
        (ended(2, stderr="usage"), "status 2, expected 0 or 1 or 143"),
        (ended(139), "status 139"),
        (ended(1), "0 sentences"),
        (ended(1, stderr=SENTENCE * 2), "2 sentences"),
        (ended(1, stderr=TRACEBACK + SENTENCE), "Traceback"),
        (ended(0, stderr="Exception ignored in: <function ...>"), "Exception ignored"),
        (ended(0, stderr=SENTENCE), "errors with status 0"),
        (ended(1, stderr="error: " + 3000 * "a"), "very long"),
        (ended(hung=True), "does not end"),
        (ended(left=("python",)), "a process is left: python"),
    ],
)
def test_the_end_of_a_command_is_judged(tmp_path, ending, fault):
    faults = faults_of(ending, (0, 1, 143), {}, tmp_path)
    assert (faults == []) if fault is None else any(fault in one for one in faults)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.json", b"[1]", None),
        ("a.json", b"[1", "torn"),
        ("a.json", b"[NaN]", "torn"),
        ("a.csv", b"a,b\n1,2\n", None),
        ("a.csv", b"a,b\n1", "torn"),
        ("log.csv", b"a,b\n1,2\n3", "torn"),
        ("a.html", b"<html></html>\n", None),
        ("a.html", b"<html>", "torn"),
        ("a.pt", b"PK", "torn"),
        ("a.jpg", b"\xff\xd8\xff", "torn"),
        ("a.mp4", b"", "torn"),
        (".effdet-1-00000000.partial", b"", "left over"),
        (".effdet.lock", b"", "left over"),
        ("next.pt", b"", "left over"),
        ("a.txt", b"", None),
    ],
)
def test_files_must_be_whole(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    faults = faults_of(ended(), (0,), {}, tmp_path)
    assert (faults == []) if fault is None else any(one.startswith(fault) for one in faults)


def test_the_last_line_of_a_log_may_be_incomplete_after_an_error(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1}) + '\n{"st')
    assert faults_of(ended(1, stderr=SENTENCE), (1,), {}, tmp_path) == []
    assert faults_of(ended(), (0,), {}, tmp_path) != []


def test_files_that_a_sentence_names_may_be_left(tmp_path):
    (tmp_path / ".predictions.csv.process-0.partial").write_text("")
    sentence = f"error: full; the results so far are in {tmp_path}/.predictions.*.process-*.partial, one a line"
    assert faults_of(ended(1, stderr=sentence), (1,), {}, tmp_path) == []
    assert faults_of(ended(1, stderr=SENTENCE), (1,), {}, tmp_path) != []


def test_inputs_must_stay_as_they_are(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("a")
    (tmp_path / "in" / "b").write_text("b")
    before = state_of(tmp_path / "in")
    assert faults_of(ended(), (0,), before, tmp_path / "out") == []
    (tmp_path / "in" / "a").unlink()
    (tmp_path / "in" / "b").write_text("c")
    assert [fault.split(":")[0] for fault in faults_of(ended(), (0,), before, tmp_path / "out")] == [
        "changed or lost"
    ] * 2
