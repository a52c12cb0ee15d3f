"""Slices that were queued leave the queue again where the rest cannot be, and are named where Slurm does not take them back."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.errors import UserError
from launch import slurm
from launch.chain import jobs_file
from launch.chain.render import submit
from launch.chain.request import Job, Places, Request, plan_job
from launch.sites.site import load_site
from pretrain.config.load import load_run

ROOT = Path(__file__).parents[3]
STILL_THERE = "; jobs 1, 2 are still in the queue; `scancel 1 2` ends them"


@pytest.fixture
def chain(tmp_path: Path) -> Job:
    """Of three jobs, as far as submitting reads what is rendered."""
    places = Places(workdir=tmp_path, code_dir=ROOT, python=Path("/project/.venv/bin/python"))
    run = load_run(ROOT / "configs" / "tiny.yaml", [f"run_dir={tmp_path}/run"])
    job = replace(plan_job(run, "local", load_site("local"), Request(nodes=2, hours=3.0), places), slices=3)
    job.folder.mkdir(parents=True)
    for name in ("config.yaml", "job.sbatch"):
        (job.folder / name).touch()
    return job


class Slurm:
    """It takes so many jobs, and then nothing but what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, jobs: int, cancels: bool) -> None:
        self.asked: list[str] = []
        self.left, self.cancels = jobs, cancels
        monkeypatch.setattr(slurm, "ask", self.ask)

    def ask(self, *command: str) -> str:
        self.asked.append(" ".join(command))
        if command[0] == "scancel":
            if not self.cancels:
                raise slurm.SlurmError(f"{' '.join(command)} failed (1): no controller")
            return ""
        if command[0] == "sbatch" and self.left:
            self.left -= 1
            return f"{sum(line.startswith('sbatch') for line in self.asked)}\n"
        raise slurm.SlurmError(f"{command[0]} failed (1): too many jobs")


@pytest.mark.parametrize("cancels", [True, False])
def test_a_slice_that_is_refused_takes_the_others_back(
    cancels: bool, chain: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Slurm(monkeypatch, jobs=2, cancels=cancels)
    with pytest.raises(slurm.SlurmError) as caught:
        submit(chain, chain.folder / "job.sbatch", hours=3.0)
    assert str(caught.value) == "sbatch failed (1): too many jobs" + ("" if cancels else STILL_THERE)
    assert there.asked[-1] == "scancel 1 2"


@pytest.mark.parametrize("cancels", [True, False])
def test_a_chain_that_cannot_be_noted_is_taken_back(cancels: bool, chain: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jobs_file, "note", no_room)
    there = Slurm(monkeypatch, jobs=2, cancels=cancels)
    with pytest.raises(
        UserError if cancels else slurm.SlurmError, match=r"jobs\.jsonl must be .* No space left on device"
    ) as caught:
        submit(replace(chain, slices=2), chain.folder / "job.sbatch", hours=3.0)
    assert str(caught.value).endswith("noted there" if cancels else STILL_THERE)
    assert there.asked[-1] == "scancel 1 2"


def interrupted(*_: str) -> str:
    raise KeyboardInterrupt


@pytest.mark.parametrize("cancels", ["no answer", "interrupted"])
def test_a_person_who_interrupts_is_told_what_is_left(
    cancels: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Slurm(monkeypatch, jobs=0, cancels=False)
    if cancels == "interrupted":
        monkeypatch.setattr(slurm, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt), slurm.taken_back_on_error() as queued:
        queued.append("7")
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "warning: job 7 is still in the queue; `scancel 7` ends it\n"
