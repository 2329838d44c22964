"""Each way in which a case can end is recognised, and the run goes on."""

import json
import random

import pytest

from .border import MARK, all_borders
from .judge import FAULTS
from .mutate import hostile_value, mutate_bytes, mutate_text, mutate_tree
from .run import cases_of, run_cases, table

TOYS = "toy_borders.py"
TREE = {"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "width": 3.5}], "info": None, "ok": True}


@pytest.fixture(scope="module")
def toys():
    return all_borders(TOYS)


@pytest.fixture(scope="module")
def run(toys, tmp_path_factory):
    """Folder and results of two cases of each toy border."""
    out = tmp_path_factory.mktemp("fuzz") / "out"
    cases = [(name, seed) for name in toys for seed in range(2)]
    return out, run_cases(toys, cases, out, 2, TOYS)


ENDS = {
    "accepts": {"accepted"},
    "refuses damage": {"accepted", "refused"},
    "refuses all": {"refused", "wrong"},
    "mumbles": {"wrong"},
    "hangs": {"hang"},
    "crashes": {"crash"},
    "leaves": {"crash"},
    "eats": {"memory"},
    "raises": {"traceback"},
    "asserts": {"wrong"},
    "writes outside": {"wrong"},
    "starts a process": {"wrong"},
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_case_is_recognised_and_the_next_case_runs(run, name):
    ends = [result.outcome for (border, _), result in run[1].items() if border == name]
    assert len(ends) == 2
    assert set(ends) <= ENDS[name]


def test_a_sound_input_that_is_refused_is_a_fault(toys, run, tmp_path):
    for seed in range(2):
        (tmp_path / str(seed)).mkdir()
        toys["refuses all"].make(random.Random(f"refuses all {seed}"), tmp_path / str(seed))
        sound = (tmp_path / str(seed) / MARK).exists()
        assert run[1]["refuses all", seed].outcome == ("wrong" if sound else "refused")


def test_inputs_of_faults_are_kept_with_the_reason(run):
    out, results = run
    kept = sorted(path.name for path in (out / "faults").iterdir())
    faults = [case for case, result in results.items() if result.outcome in FAULTS]
    assert kept == sorted(f"{name.replace(' ', '-')}-{seed}" for name, seed in faults)
    assert "KeyError" in (out / "faults" / "raises-0" / "fault.txt").read_text()
    assert (out / "faults" / "raises-0" / "numbers.txt").exists()
    assert "subprocess.Popen" in (out / "faults" / "starts-a-process-0" / "fault.txt").read_text()


def test_the_table_has_a_line_for_each_border(run, toys):
    heading, *lines = table(run[1]).splitlines()
    assert heading.split()[:4] == ["border", "inputs", "accepted", "refused"]
    assert {line.split("  ")[0] for line in lines} == set(toys)


def test_a_stopped_run_goes_on_where_it_was_and_runs_faults_again(toys, tmp_path):
    some = {name: toys[name] for name in ("accepts", "raises")}
    run_cases(some, [("accepts", 0), ("raises", 0)], tmp_path, 1, TOYS)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"border": "accepts", "se')
    results = run_cases(some, [("accepts", 0), ("accepts", 1), ("raises", 0)], tmp_path, 1, TOYS)
    assert len(results) == 3
    written = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    ran = [(line["border"], line["seed"]) for line in written]
    assert ran == [("accepts", 0), ("raises", 0), ("accepts", 1), ("raises", 0)]


def test_heavy_borders_have_a_tenth_of_the_cases(toys):
    light, heavy = toys["accepts"], toys["raises"].__class__("slow", toys["accepts"].make, print, heavy=True)
    cases = list(cases_of([light, heavy], 110, 5))
    assert cases == [("accepts", seed) for seed in range(5, 105)] + [("slow", seed) for seed in range(5, 15)]


@pytest.mark.parametrize("seed", range(200))
def test_the_same_seed_does_the_same_damage(seed):
    def damaged():
        rng = random.Random(seed)
        tree = mutate_tree(rng, mutate_tree(rng, TREE))
        text = mutate_text(rng, json.dumps(TREE, indent=1), ("bbox",))
        return repr((tree, hostile_value(rng))), text, mutate_bytes(rng, json.dumps(TREE).encode(), (b"PK",))

    assert damaged() == damaged()


def test_damage_leaves_what_is_damaged_as_it_was():
    before = json.dumps(TREE)
    for seed in range(200):
        mutate_tree(random.Random(seed), TREE)
    assert json.dumps(TREE) == before
