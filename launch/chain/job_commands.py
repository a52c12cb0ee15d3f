"""Steps of a job that its script calls: ``launch job``. What they call is imported when they run."""

import sys
from pathlib import Path

import click

from fanal.command_group import CommandGroup
from fanal.errors import PassingError, run_guarded
from fanal.exit_codes import FINISHED


@click.group(hidden=True, cls=CommandGroup)
def job() -> None:
    """Steps of a job that its script calls."""


@job.command("begin")
@click.argument("folder", type=Path)
def job_begin(folder: Path) -> None:
    """Prepare the run: print where ranks meet, or nothing if this job must not run."""

    def act() -> int:
        from launch.chain.job import begin
        from launch.slurm import SlurmError

        try:
            meet_at = begin(folder)
        except SlurmError as error:  # whatever it says, the input is not wrong in a job that has started
            raise PassingError(str(error)) from None
        print(meet_at or "", end="")
        return FINISHED

    sys.exit(run_guarded(act))


@job.command("choose")
@click.argument("folder", type=Path)
def job_choose(folder: Path) -> None:
    """Choose the nodes that train, of a job with spare ones: print where ranks meet, the nodes, and a node that stands by."""

    def act() -> int:
        from launch.chain.choose import choose
        from launch.slurm import SlurmError

        try:
            print(choose(folder))
        except SlurmError as error:  # as in job_begin
            raise PassingError(str(error)) from None
        return FINISHED

    sys.exit(run_guarded(act))


@job.command("end")
@click.argument("folder", type=Path)
@click.option("--before-training", type=int)
@click.option("--walltime", is_flag=True)
def job_end(folder: Path, before_training: int | None, walltime: bool) -> None:
    """Finish the run: decide what follows, note the decision, act on it."""

    def act() -> int:
        from launch.chain.job import end

        return end(folder, before_training=before_training, walltime=walltime)

    sys.exit(run_guarded(act))
