"""Options of ``fanal plan`` that would do nothing are refused by name, and the same command without them works."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from launch.planning.command import plan as command
from launch.planning.modes import OF_A_LADDER, PLACE, TAKEN, check_options

CONFIG = "configs/1b.yaml"
GPUS = ("--gpus", "8", "--gpu", "h100")
VALUES: dict[str, tuple[str, ...]] = {
    "--gpus": ("8",), "--gpu": ("h100",), "--site": ("jean-zay-h100",), "--nodes": ("2",), "--top": ("3",), "--rehearse": ("0",),
    "--write": ("{folder}/layout.yaml",), "--tokens": ("1000000",), "--slice-hours": ("10",),
    "--failures-per-1000-gpu-hours": ("0.1",), "--qos": ("qos_gpu_h100-t3",), "--document-tokens": ("512",), "--own": (),
    "--scaling": ("{folder}/scaling.svg",), "--calibrate": ("runs/x",), "--no-calibration": (), "--ladder": ("{folder}/ladder",),
    "--parts": ("1/64",), "--tokens-per-parameter": ("20",), "--rung-flops": ("1e18",), "--fit": (), "--json": (),
}  # fmt: skip
MODES: dict[str, tuple[str, ...]] = {
    "--scaling": ("--scaling", "{folder}/scaling.svg", *GPUS),
    "--ladder": ("--ladder", "{folder}/ladder", "--parts", "1/64", *GPUS),
    "--fit": ("--ladder", "{folder}/ladder", "--fit"),
}
OTHER_MODE = {"--scaling": ("--ladder",), "--ladder": ("--fit",)}
"""Options that make another table of it."""


def asked(*words: str, folder: Path) -> Result:
    return CliRunner().invoke(command, [CONFIG, *(word.format(folder=folder) for word in words)])


def test_every_option_has_a_value_here() -> None:
    assert set(VALUES) == {one.opts[0] for one in command.params if one.param_type_name == "option"}


@pytest.mark.parametrize("mode", MODES)
def test_each_option_is_taken_or_refused_by_name(mode: str, tmp_path: Path) -> None:
    for name, value in VALUES.items():
        if name in TAKEN[mode] or name in MODES[mode] or name in OTHER_MODE.get(mode, ()):
            continue
        done = asked(*MODES[mode], name, *value, folder=tmp_path)
        assert done.exit_code == 2 and len(done.output.splitlines()) == 1, (name, done.output)
        assert re.match(rf"error: {name}\b.* must be left out beside {mode}, .* without {name} works", done.output), (
            done.output
        )
        assert not list(tmp_path.iterdir())


def test_the_same_command_without_them_works(tmp_path: Path) -> None:
    done = asked(*MODES["--ladder"], "--top", "3", "--own", "--tokens", "1000", folder=tmp_path)
    names = done.output.split(" without ")[1].split(" works")[0].split(" and ")
    assert sorted(names) == ["--own", "--tokens", "--top"]
    assert asked(*MODES["--ladder"], folder=tmp_path).exit_code == 0


def test_a_table_of_scaling_beside_a_ladder_is_refused(tmp_path: Path) -> None:
    done = asked(*MODES["--ladder"], "--scaling", "{folder}/scaling.svg", folder=tmp_path)
    assert done.exit_code == 2 and "--scaling (" in done.output and "must be left out beside --ladder" in done.output


@pytest.mark.parametrize(
    ("words", "says", "works"),
    [
        (("--parts", "1/64", *GPUS), "--parts (1/64) must stand beside --ladder", "--ladder"),
        (("--fit",), "--fit must stand beside --ladder", "--ladder"),
        (("--parts", "1/64", "--top", "3"), "--ladder ladder in place of --top works", ""),
        (("--top", "2", "--rehearse", "5", *GPUS), "--rehearse (5) must be at most --top (2)", "--top 5"),
        (("--ladder", "{folder}/l", "--parts", "1/64", "--no-calibration"), "--no-calibration must stand beside a machine", "--gpus 8 --gpu h100"),
        (("--failures-per-1000-gpu-hours", "0.1", *GPUS), "--failures-per-1000-gpu-hours (0.1) must stand beside --site", ""),
    ],
)  # fmt: skip
def test_options_that_need_another_say_which(words: Any, says: str, works: str, tmp_path: Path) -> None:
    done = asked(*words, folder=tmp_path)
    assert done.exit_code == 2 and says in done.output and works in done.output and not list(tmp_path.iterdir())


def test_every_advice_of_a_pair_is_taken() -> None:
    """The rules alone: what they run is in the other tests."""
    check_options({"--top": 5, "--rehearse": 5})
    check_options({"--ladder": "l", "--no-calibration": True, "--gpus": 8, "--gpu": "h100"})
    check_options({"--ladder": "l", "--parts": "1/64"})
    check_options({name: "x" for name in VALUES if name not in ("--scaling", "--ladder", *OF_A_LADDER)})
    assert set(PLACE) < set(TAKEN["--ladder"])


def test_failures_of_jobs_whose_length_nobody_says_are_refused(tmp_path: Path) -> None:
    words = (
        "--site",
        "local",
        "--gpu",
        "mine",
        "--nodes",
        "1",
        "--failures-per-1000-gpu-hours",
        "0.1",
        "--rehearse",
        "0",
    )
    cores = tmp_path / "mine.yaml"
    cores.write_text(Path("tests/golden/formats/v3/plan/cores.yaml").read_text())
    tiny = ("configs/tiny.yaml", *(str(cores) if word == "mine" else word for word in words), "--top", "1")
    done = CliRunner().invoke(command, [*tiny])
    assert done.exit_code == 2 and "; --slice-hours 20 works" in done.output, done.output
    assert CliRunner().invoke(command, [*tiny, "--slice-hours", "20"]).exit_code == 0
