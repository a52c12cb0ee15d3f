"""The command ``fanal``: a list without imports, the packages' own commands and errors, and completion in a real bash."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fanal.command import COMMANDS, GROUPS, SHELLS, fanal, group_of, load, version
from fanal.command_group import CommandGroup, first_sentence

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "fanal"]


def called(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that runs to its end in the root of the repository."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says_of_itself(name: str) -> None:
    assert COMMANDS[name][1] == first_sentence(load(name))


def test_the_table_has_every_command_of_the_trainer() -> None:
    listed = {name for name, (package, _) in COMMANDS.items() if package == "pretrain"}
    assert listed == set(group_of("pretrain").commands)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_list_of_commands_shows_whole_sentences(width: int) -> None:
    for group in (fanal, *map(group_of, GROUPS)):
        shown = CliRunner().invoke(group, ["--help"], terminal_width=width).output
        assert isinstance(group, CommandGroup)
        for _, sentence in group.sentences(click.Context(group)):
            assert sentence in " ".join(shown.split())


def test_a_sentence_of_a_list_begins_with_a_capital_and_ends_with_its_first_full_stop() -> None:
    command = click.Command("x", help="Write a job\nto RUN_DIR/launch. Nothing is queued.\n\nMore of it.")
    assert first_sentence(command) == "Write a job to RUN_DIR/launch."


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_and_version_import_none_of_the_packages(words: list[str]) -> None:
    program = (
        "import sys; from fanal.command import fanal; fanal.main(sys.argv[1:], prog_name='fanal', standalone_mode=False); "
        "print([m for m in ('pretrain', 'tokenizer', 'launch', 'torch', 'numpy', 'rich', 'omegaconf') if m in sys.modules])"
    )
    assert called(sys.executable, "-c", program, *words).stdout.endswith("[]\n")


def test_the_module_of_the_entry_point_imports_nothing_before_it_is_called() -> None:
    program = (
        "import sys, fanal.__main__; print([m for m in ('click', 'pretrain', 'fanal.command') if m in sys.modules])"
    )
    assert called(sys.executable, "-c", program).stdout == "[]\n"


def test_the_version_is_the_one_of_pyproject_also_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert f'\nversion = "{version()}"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("words", "old"),
    [
        (["train", "no-such.yaml"], "pretrain"),
        (["train"], "pretrain"),
        (["show", "configs/tiny.yaml", "train.lr=1"], "pretrain"),
        (["verify", "no-such-run"], "pretrain"),
        (["tokenizer", "verify", "no-such-shard"], "tokenizer"),
        (["tokenizer", "check", "--tokenizer", "no-such-folder", "--input", "x"], "tokenizer"),
        (["tokenizer", "encode", "--no-such-option"], "tokenizer"),
        (["launch", "status", "no-such-run"], "launch"),
        (["launch", "status"], "launch"),
    ],
)
def test_errors_and_exit_codes_are_those_of_the_packages(words: list[str], old: str) -> None:
    new = called(*COMMAND, *words)
    before = called(sys.executable, "-m", old, *words[old != "pretrain" :])
    assert new.returncode == before.returncode != 0
    assert new.stdout == before.stdout
    usage = "python -m fanal" if old == "pretrain" else f"python -m fanal {old}"
    assert new.stderr.replace(f"{usage} ", f"python -m {old} ") == before.stderr


@pytest.mark.parametrize("words", [["train"], ["tokenizer", "encode"], ["launch", "submit"]])
def test_usage_says_fanal_when_the_entry_point_was_called(words: list[str]) -> None:
    program = "import sys; sys.argv[0] = '/somewhere/bin/fanal'; from fanal.__main__ import main; main()"
    shown = called(sys.executable, "-c", program, *words, "--help")
    assert shown.stdout.startswith(f"Usage: fanal {' '.join(words)} [OPTIONS]")


def test_a_command_that_is_none_is_refused_with_exit_code_2() -> None:
    refused = called(*COMMAND, "trian")
    assert refused.returncode == 2 and "trian" in refused.stderr


def test_a_stop_signal_that_comes_before_the_imports_of_train_is_noted_and_does_not_end_it() -> None:
    program = (
        "import os, signal, sys; sys.argv = ['fanal', 'train', 'x.yaml']; import fanal.command, fanal.__main__; "
        "fanal.command.run = lambda words: (os.kill(os.getpid(), signal.SIGTERM), print('went on'))[0] or 0; "
        "fanal.__main__.main()"
    )
    done = called(sys.executable, "-c", program)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


def test_other_commands_end_at_a_stop_signal_as_any_program_does() -> None:
    program = (
        "import os, signal, sys; sys.argv = ['fanal', 'show', 'x.yaml']; import fanal.command, fanal.__main__; "
        "fanal.command.run = lambda words: (os.kill(os.getpid(), signal.SIGTERM), print('went on'))[0] or 0; "
        "fanal.__main__.main()"
    )
    assert called(sys.executable, "-c", program).returncode == -signal.SIGTERM


@pytest.fixture(scope="module")
def entry_point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script ``fanal`` as pip writes it."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "fanal"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom fanal.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_prints_a_script_that_asks_this_command(shell: str) -> None:
    script = CliRunner().invoke(fanal, ["completion", shell]).output
    assert f"_FANAL_COMPLETE={shell}_complete" in script


COMPLETE = r"""
eval "$(fanal completion bash)"
compopt() { echo "by the shell: $2"; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_fanal_completion fanal
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tr", ["train", "trace"]),
        ("tokenizer en", ["encode"]),
        ("launch ren", ["render", "render-encode"]),
        ("export --max", ["--max-shard-bytes"]),
        ("tokenizer encode --eng", ["--engine"]),
        ("tokenizer encode --engine si", []),
        ("tokenizer encode --engine s", ["sentencepiece"]),
        ("completion z", ["zsh"]),
        ("train conf", ["by the shell: default"]),
        ("launch submit conf", ["by the shell: default"]),
        ("tokenizer encode --input conf", ["by the shell: default"]),
        ("tokenizer encode --input a b", ["by the shell: default"]),
        ("launch status run", ["by the shell: default"]),
    ],
)
def test_bash_completes_commands_options_and_leaves_files_to_the_shell(
    words: str, offered: list[str], entry_point: Path
) -> None:
    path = f"{entry_point}{os.pathsep}{os.environ['PATH']}"
    done = called("bash", "-c", COMPLETE, "bash", "fanal", *words.split(), PATH=path, PYTHONPATH=str(ROOT))
    assert not done.stderr
    assert [line for line in done.stdout.splitlines() if line] == offered


def test_groups_inside_groups_and_completion_show_whole_sentences() -> None:
    launch = group_of("launch")
    job = launch.commands["job"]
    assert isinstance(job, CommandGroup)
    shown = CliRunner().invoke(job, ["--help"], terminal_width=80).output
    assert "Prepare the run: print where ranks meet, or nothing if this job must not run." in " ".join(shown.split())
    found = {item.value: item.help for item in launch.shell_complete(click.Context(launch), "")}
    assert found["preflight"] == ("Check config, paths, data and free space, and inside a job also every node of it.")


def test_a_toolkit_without_a_gpu_is_not_worth_a_line(tmp_path: Path) -> None:
    """As a login node has it: an export there is no place for CUDA."""
    program = "import pretrain.convert.exporting.export; from torch.utils import cpp_extension; cpp_extension._find_cuda_home()"
    done = called(sys.executable, "-W", "ignore", "-c", program, CUDA_HOME=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, "CUDA runtime" in done.stderr + done.stdout) == (0, False), done.stderr
    loud = called(
        sys.executable,
        "-W",
        "ignore",
        "-c",
        program.partition("; ")[2],
        CUDA_HOME=str(tmp_path),
        CUDA_VISIBLE_DEVICES="",
    )
    assert "No CUDA runtime is found" in loud.stderr, "torch says so by itself"
