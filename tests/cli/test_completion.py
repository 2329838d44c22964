import shutil
import subprocess

import pytest

from effdet.cli import VERBS, main
from effdet.cli.completion import SHELLS

TRY = """
source completion.bash
words=("$@"); COMP_WORDS=("${words[@]}"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
$(complete -p effdet | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def completions(tmp_path, capsys):
    """What bash offers for the last word of a command."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion.bash").write_text(capsys.readouterr().out)
    (tmp_path / "try.sh").write_text(TRY)

    def complete(*words):
        command = ["bash", "--norc", "try.sh", "effdet", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return complete


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_every_shell_names_every_verb(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)


def test_verbs_options_and_choices_are_completed(completions):
    assert completions("tr") == ["train"]
    assert completions("train", "lite0", "--re") == ["--resume"]
    assert completions("weights", "down") == ["download"]
    assert completions("predict", "a.jpg", "--nms", "ag") == ["agnostic"]


@pytest.mark.parametrize("verb", ["train", "eval", "config", "info", "plan", "show-batch", "shards"])
def test_recipes_and_files_are_completed(completions, tmp_path, verb):
    (tmp_path / "finer.yaml").touch()
    assert completions(verb, "fine") == ["finetune", "finer.yaml"]
    assert completions(verb, "classification/fine") == ["classification/finetune"]


def test_files_are_completed_for_weights_and_images(completions, tmp_path):
    (tmp_path / "street.jpg").touch()
    assert completions("predict", "str") == ["street.jpg"]
    assert completions("predict", "a.jpg", "--weights", "str") == ["street.jpg"]
