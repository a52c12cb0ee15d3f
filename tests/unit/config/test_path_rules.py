"""Paths of a run: what only a shell would fill in."""

from pathlib import Path

import pytest

from pretrain.config.load import load_run

CONFIG = Path(__file__).parents[3] / "configs" / "tiny.yaml"


@pytest.mark.parametrize(
    ("override", "what", "works"),
    [
        ("run_dir=$SCRATCH/runs/x", "$SCRATCH", "${oc.env:SCRATCH}/runs/x"),
        ("run_dir=/a/$USER-x", "$USER", "/a/${oc.env:USER}-x"),
        ("run_dir=~/x", "~", "${oc.env:HOME}/x"),
        ("run_dir=~ann/x", "~ann", "/home/ann/x"),
        ("data.tokenizer=$WORK/tokenizer", "$WORK", "${oc.env:WORK}/tokenizer"),
        ("data.train=[{prefix: $WORK/a}]", "$WORK", "${oc.env:WORK}/a"),
        ("data.validation=[{prefix: ~/a}]", "~", "${oc.env:HOME}/a"),
        ("data.phases=[{start_sample: 8, train: [{prefix: $WORK/a}]}]", "$WORK", "${oc.env:WORK}/a"),
        ("checkpoint.init_from=$WORK/runs/first", "$WORK", "${oc.env:WORK}/runs/first"),
    ],
)
def test_what_only_a_shell_fills_in_is_refused_with_what_works(
    override: str, what: str, works: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError) as caught:
        load_run(CONFIG, [override])
    assert f" must not hold {what}, which only a shell expands" in str(caught.value)
    assert f"; '{works}' works" in str(caught.value)
    for name in ("SCRATCH", "WORK", "HOME", "USER"):
        monkeypatch.setenv(name, "/a")
    load_run(CONFIG, [override.replace(override[override.index(what) :].rstrip("]}"), f"'{works}'")])


def test_a_variable_of_the_environment_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/mine")
    assert load_run(CONFIG, ["run_dir=${oc.env:SCRATCH}/runs/x"]).run_dir == "/scratch/mine/runs/x"
    with pytest.raises(ValueError, match=r"run_dir: .*; an environment variable is written \${oc.env:SCRATCH}"):
        load_run(CONFIG, ["run_dir=${SCRATCH}/runs/x"])


@pytest.mark.parametrize("path", ["runs/a~b", "runs/5$", "./~x", "runs/$1"])
def test_other_names_with_these_letters_are_paths(path: str) -> None:
    assert load_run(CONFIG, [f"run_dir={path}"]).run_dir == path


@pytest.mark.parametrize("path", ["", " "])
def test_the_current_folder_is_no_run_folder_by_an_oversight(path: str) -> None:
    with pytest.raises(ValueError, match=r"run_dir \('\s?'\) must not be empty; run_dir=runs/mine works"):
        load_run(CONFIG, [f"run_dir='{path}'"])
