"""A few whole commands under faults. `make fuzz` runs all verbs in all places, and kills 30 trainings."""

import random
import signal
import sys

import pytest

from . import moments
from .cases import Cases
from .commands import Starter
from .places import PLACES, mounts_are_allowed
from .verbs import make_inputs

pytestmark = pytest.mark.skipif("linux" not in sys.platform, reason="faults are made by means of Linux")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    for name in ("inputs", "logs"):
        (folder / name).mkdir()
    with Starter(folder / "logs") as starter:
        yield Cases(starter, make_inputs(folder / "inputs", starter), folder / "work")


@pytest.mark.parametrize(
    ("verb", "place"),
    [
        ("predict images", "disk full after 60%"),
        ("convert", "files limited to half the largest"),
        ("eval", "output folder read-only"),
        ("shards", "inputs read-only"),
        ("report", "disk full after 0%"),
        ("check", "64 descriptors"),
        ("predict a video", "20 descriptors"),
    ],
)
def test_a_command_in_a_bad_place_is_done_or_says_why_not(cases, verb, place):
    if PLACES[place].mounts and not mounts_are_allowed():
        pytest.skip("this user may not mount, in a namespace that ends with the command")
    assert cases.in_place(verb, place)[1] == []


def test_a_training_that_is_killed_three_times_ends_as_one_that_is_not(cases):
    assert moments.kill_trainings(cases, 3, random.Random(0)) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_prediction_that_a_signal_ended_can_be_repeated(cases, number):
    assert moments.end_by_signal(cases, "predict images", number, random.Random(0)) == []
