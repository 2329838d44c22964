"""`make demo` in a place like a container with next to nothing."""

import shutil

import pytest

from .container import demo_faults
from .places import mounts_are_allowed


@pytest.mark.slow
@pytest.mark.skipif(not mounts_are_allowed() or shutil.which("make") is None, reason="needs mounts and make")
def test_the_demo_runs_in_a_container_with_next_to_nothing(tmp_path):
    assert demo_faults(tmp_path / "container") == []
