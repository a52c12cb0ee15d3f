"""Command line of ``fanal launch``: parse the arguments, call one function, return an exit code."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fanal.command_group import CommandGroup, ManyInputsCommand, complete_path
from fanal.errors import run_guarded, user_path
from fanal.exit_codes import FINISHED
from launch.chain import commands
from launch.chain.evaluation_commands import evaluations
from launch.chain.evaluations import evaluation_options, evaluations_of
from launch.chain.job_commands import job
from launch.encoding.commands import job_merge
from launch.status.command import status

CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.group(cls=CommandGroup, context_settings=CONTEXT)
def cli() -> None:
    """Turn one YAML into a chain of Slurm jobs that restarts itself after a failure."""


cli.add_command(evaluations)
cli.add_command(commands.nodes)
cli.add_command(commands.chain)
cli.add_command(commands.notify)
cli.add_command(job)
job.add_command(job_merge)

site_option = click.option(
    "--site",
    "site_name",
    required=True,
    metavar="NAME",
    shell_complete=complete_path,
    help="A site of launch/sites, or a YAML file.",
)


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that render and submit share."""
    for decorate in reversed(
        (
            click.argument("config", shell_complete=complete_path),
            click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
            site_option,
            click.option("--nodes", type=int, required=True, help="Nodes of each job."),
            click.option(
                "--hours", type=float, help="Hours of walltime in all; more than one job may take becomes a chain."
            ),
            click.option("--account", metavar="NAME", help="Account whose hours are used, such as xyz@h100."),
            click.option("--qos", metavar="NAME", help="Quality of service. Default: the site's first."),
            click.option(
                "--slice-hours", type=float, help="Hours of one job of a chain. Default: all that the QoS allows."
            ),
            click.option("--gpus-per-node", type=int, help="GPUs to use of one node, with --nodes 1. Default: all."),
            click.option(
                "--stop-margin-s", type=int, help="Seconds kept for the last checkpoint. Default: the site's."
            ),
            click.option("--exclude", metavar="NODE,...", help="Nodes never to run on."),
            click.option(
                "--spare-nodes",
                type=int,
                default=0,
                show_default=True,
                help="Nodes beyond --nodes that idle until one of these is sick or lost.",
            ),
            click.option(
                "--module", "modules", multiple=True, metavar="NAME", help="Module to load, too; may be repeated."
            ),
            click.option("--preflight/--no-preflight", default=True, help="Check data, space and every node first."),
            click.option(
                "--node-local/--no-node-local",
                default=None,
                help="Run code and packages from each node's own disk. Default: the site's.",
            ),
            click.option(
                "--container", metavar="IMAGE", help="Run the ranks in this image, by the site's container runtime."
            ),
        )
    ):
        command = decorate(command)
    return evaluation_options(command)


@cli.command(context_settings=CONTEXT)
@job_options
def render(config: str, overrides: tuple[str, ...], site_name: str, **options: Any) -> None:
    """Write the script of a job, and the files it needs, into RUN_DIR/launch. Nothing is queued."""

    def act() -> int:
        from launch.chain.render import jobs_in_queue, render_alone

        job = _plan(config, overrides, site_name, options)
        with user_path(job.run_dir):
            path = render_alone(job)
        if there := jobs_in_queue(job):
            print(
                f"warning: jobs in the queue ({', '.join(there)}) start only what they were submitted with, and end where it has "
                f"changed; `scancel {' '.join(there)}`, then `fanal launch submit`, takes what is written now",
                file=sys.stderr,
            )
        print(
            f"{path}: {_summary(job)}; `sbatch {shlex.quote(str(path))}` queues one job, `fanal launch submit` all of them"
        )
        return FINISHED

    sys.exit(run_guarded(act))


@cli.command(context_settings=CONTEXT)
@job_options
@click.option("--until-step", type=int, help="End the chain with the checkpoint of this step.")
@click.option(
    "--until-loss", type=float, help="End it once the validation loss is this or less (`fanal launch chain -h`)."
)
def submit(
    config: str,
    overrides: tuple[str, ...],
    site_name: str,
    until_step: int | None,
    until_loss: float | None,
    **options: Any,
) -> None:
    """Render the job, and queue every job of its chain."""

    def act() -> int:
        from launch.chain.render import render_and_submit
        from launch.chain.until import asked_until

        job = _plan(config, overrides, site_name, options)
        with user_path(job.run_dir):
            until = asked_until(
                job.run_dir, step=until_step, loss=until_loss, train_steps=job.run.train.train_steps,
                has_validation=bool(job.run.data.validation),
            )  # fmt: skip
            queued = render_and_submit(job, hours=options["hours"], until=until)
        run_dir = shlex.quote(str(job.run_dir))
        print(f"queued {', '.join(queued)}: {_summary(job)}")
        print(f"watch: fanal launch status {run_dir}; stop with a checkpoint: touch {run_dir}/requests/STOP")
        return FINISHED

    sys.exit(run_guarded(act))


@cli.command(context_settings=CONTEXT)
@click.argument("config", shell_complete=complete_path)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@site_option
@click.option("--nodes", type=int, help="Nodes of each job. Default: what the config or the job says.")
@click.option("--gpus-per-node", type=int, help="GPUs to use of one node, with --nodes 1. Default: all.")
@click.option("--deep", is_flag=True, help="Read all data, to check hashes, ids and offsets.")
@click.option(
    "--write-machine", "machine_file", type=click.Path(path_type=Path), metavar="FILE.yaml",
    help="Measure this node, too, and write its figures for `fanal plan --gpu FILE.yaml`; a minute.",
)  # fmt: skip
def preflight(config: str, overrides: tuple[str, ...], site_name: str, **options: Any) -> None:
    """Check config, paths, data and free space, and inside a job also every node of it. Nothing is trained or queued.

    The exit code is 2 if the input is wrong, 76 if data is damaged, 70 if a node is broken: then other nodes may work.
    """

    def act() -> int:
        from launch.preflight.preflight import preflight as look

        return look(config, overrides, site_name, **options)

    sys.exit(run_guarded(act))


@cli.command(context_settings=CONTEXT)
@click.argument("site_name", metavar="[SITE]", required=False, shell_complete=complete_path)
def sites(site_name: str | None) -> None:
    """List the sites: machine, GPUs of a node, architecture, container, longest slot. With SITE, all its keys, bases resolved."""

    def act() -> int:
        from launch.sites.site import load_site, machine_key, site_text
        from launch.sites.table import show_sites
        from pretrain.plan.machine import load_machine

        if site_name is None:
            show_sites()
        else:
            site = load_site(site_name)
            if site.machine:
                load_machine(site.machine, key=machine_key(site_name))
            print(site_text(site), end="")
        return FINISHED

    sys.exit(run_guarded(act))


@cli.command("site-check", context_settings=CONTEXT)
@click.argument("site_name", metavar="SITE", shell_complete=complete_path)
def site_check(site_name: str) -> None:
    """Compare a site with what scontrol and sacctmgr say on this machine. Nothing is queued.

    The exit code is 2 if anything differs.
    """

    def act() -> int:
        from launch.sites.check import site_check as check

        return check(_site(site_name), site_name)

    sys.exit(run_guarded(act))


@cli.command("pack-environment", context_settings=CONTEXT)
@site_option
@click.option("--to", "archive", type=Path, required=True, metavar="FILE.tar", help="Archive to write.")
@click.option("--python-version", default="3.11", show_default=True, help="Python of the nodes.")
@click.option(
    "--requirements",
    "locks",
    type=Path,
    multiple=True,
    metavar="FILE",
    help="Requirements with hashes; may be repeated. Default: the locks of this checkout, and Fanal itself.",
)
def pack_environment(site_name: str, archive: Path, python_version: str, locks: tuple[Path, ...]) -> None:
    """Write an archive of all packages for the nodes of a site, and a script that installs it without internet. Needs internet."""

    def act() -> int:
        from fanal.target_file import check_target
        from launch.offline.pack import pack_offline

        check_target("--to", archive, (".tar",), may_replace=False)
        site, code_dir = _site(site_name), Path(__file__).parents[1]
        with user_path(archive, *locks):
            count = pack_offline(
                site, site_name, archive=archive, python_version=python_version, locks=locks, code_dir=code_dir
            )
        print(
            f"{archive}: {count} packages for {site.architecture}, Python {python_version}; copied to the machine, "
            f"`tar -xf {shlex.quote(archive.name)}` and `bash {shlex.quote(archive.stem)}/install.sh FOLDER` install it"
        )
        return FINISHED

    sys.exit(run_guarded(act))


@cli.command("render-encode", cls=ManyInputsCommand, context_settings=CONTEXT)
@site_option
@click.option(
    "--tokenizer", required=True, metavar="DIR", shell_complete=complete_path, help="Folder of a trained tokenizer."
)
@click.option(
    "--input",
    "inputs",
    required=True,
    multiple=True,
    metavar="FILE...",
    shell_complete=complete_path,
    help="Files or folders of text.",
)
@click.option(
    "--output",
    required=True,
    metavar="PREFIX",
    shell_complete=complete_path,
    help="Prefix of the shard; the scripts go to PREFIX.launch.",
)
@click.option("--parts", type=int, required=True, help="Tasks of the array, a share of the text each.")
@click.option("--hours", type=float, help="Hours of walltime of one task.")
@click.option("--account", metavar="NAME", help="Account whose hours are used, such as xyz@cpu.")
@click.option("--qos", metavar="NAME", help="Quality of service. Default: the site's first.")
@click.option("--shuffle-seed", type=int, help="Put the documents in a random order.")
@click.option("--workers", type=int, help="Processes, and cores, of a task. Default: all that the site gives.")
@click.option("--at-once", type=int, metavar="M", help="Largest number of tasks that run at a time.")
@click.option("--retries", type=int, default=2, show_default=True, help="How often missing parts are queued again.")
@click.option("--module", "modules", multiple=True, metavar="NAME", help="Module to load, too; may be repeated.")
@click.option("--submit", "to_queue", is_flag=True, help="Queue the array, and the merge after it.")
@click.argument("passed_on", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTION OF TOKENIZER ENCODE...]")
def render_encode(site_name: str, to_queue: bool, **options: Any) -> None:
    """Write an array of jobs that encodes text in parts, and the job that merges them, into PREFIX.launch."""

    def act() -> int:
        from launch.chain.script import walltime
        from launch.encoding.encode import EncodeRequest, plan_encode, render_and_queue
        from launch.encoding.encode import render_encode as write

        jobs = plan_encode(site_name, _site(site_name), EncodeRequest(**options), _places())
        what = f"{jobs.parts} task(s) of {walltime(jobs.minutes)}, {jobs.workers} core(s) each"
        if to_queue:
            array, merge = render_and_queue(jobs)
            print(f"queued array {array} ({what}) and merge {merge} after it; `scancel {array} {merge}` ends both")
        else:
            print(f"{write(jobs)}: encode.sbatch ({what}) and merge.sbatch; the same command with --submit queues both")
        return FINISHED

    sys.exit(run_guarded(act))


def _plan(config: str, overrides: tuple[str, ...], site_name: str, options: dict[str, Any]) -> Any:
    from launch.chain.request import Request, plan_job
    from pretrain.config.load import load_run_to_train
    from pretrain.config.path_rules import paths_of

    exclude = tuple(node for node in (options["exclude"] or "").split(",") if node)
    request = Request(**{**evaluations_of(options), "exclude": exclude})
    run, site = load_run_to_train(config, overrides), _site(site_name)
    with user_path(run.run_dir, *paths_of(run).values()):
        planned = plan_job(run, site_name, site, request, _places())
    for warning in planned.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return planned


def _site(name: str) -> Any:
    from launch.sites.site import load_site, site_note

    site = load_site(name)
    if line := site_note(name):
        print(line, flush=True)
    return site


def _places() -> Any:
    from launch.chain.request import Places

    # Not resolved: a virtual environment's Python is a link, and works by its place.
    return Places(workdir=Path.cwd(), code_dir=Path(__file__).parents[1], python=Path(sys.executable))


def _summary(job: Any) -> str:
    from launch.chain.script import walltime
    from launch.chain.spare_request import cost_of_spares

    of_gpus = (
        f"{job.nodes * job.gpus_per_node} GPUs" if job.gpus_per_node else f"{job.nodes * job.ranks_per_node} CPU ranks"
    )
    cost = cost_of_spares(job.spare_nodes, job.nodes, hours=job.slices * job.minutes / 60)
    return f"{job.slices} job(s) of {walltime(job.minutes)} on {job.nodes} node(s), {of_gpus}{cost}"


cli.add_command(status)

if __name__ == "__main__":
    cli()
