"""Commands about chains and nodes: ``fanal launch nodes``, ``chain`` and ``notify``. What they call is imported when they run."""

import getpass
import os
import re
import sys
from pathlib import Path

import click

from fanal.command_group import complete_path
from fanal.errors import FanalError, UserError, run_guarded, user_path
from fanal.exit_codes import FINISHED
from fanal.run_folder import LAUNCH_DIR
from fanal.shown import shown

CONTEXT = {"help_option_names": ["-h", "--help"]}
MAX_NODES = 10_000
"""Most nodes that an option names: a list has room for that many."""
_ALLOWED = "may be used again"
_NOT_LISTED = f"{_ALLOWED}: it was not listed, and a chain that noted it by itself forgets that"


@click.command(context_settings=CONTEXT)
@click.option("--exclude", metavar="NODE,...", help="Nodes to avoid; names, or groups such as n[7-9].")
@click.option("--allow", metavar="NODE,...", help="Nodes to use again.")
@click.option("--hours", type=float, help="Hours for which to avoid them. Default: 48.")
@click.option("--reason", help="Why, in a few words.")
@click.option(
    "--apply", "to_apply", is_flag=True, help="Bring waiting jobs in line with the list, after an edit by hand."
)
def nodes(exclude: str | None, allow: str | None, hours: float | None, reason: str | None, to_apply: bool) -> None:
    """Show the nodes that your chains on this cluster avoid: until when, why, who added them. Or add and remove some.

    Jobs add nodes that preflight, exit codes of ranks or Slurm blame. The list is a text file: edit it as you like.
    """

    def act() -> int:
        from launch.chain import avoid
        from launch.chain.node_list import DEFAULT_HOURS, Entry, edit_list, list_path, read_list

        path = list_path()
        with user_path(path):
            _, faults = read_list(path)
            if faults:
                more = f" ({len(faults) - 1} more such lines)" if len(faults) > 1 else ""
                raise UserError(f"{faults[0]}{more}")
            added, allowed = _names("--exclude", exclude), _names("--allow", allow)
            _check_options(added, allowed, hours, reason)
            if added or allowed:
                chosen = DEFAULT_HOURS if hours is None else hours
                new = [Entry.beginning_now(node, hours=chosen, reason=reason or "", by=_user()) for node in added]
                gone = edit_list(path, add=new, remove=(*allowed, *added))
                if allowed:
                    avoid.allow(path, allowed)
                there = {entry.node for entry in gone}
                for node in allowed:
                    print(f"{node} {_ALLOWED if node in there else _NOT_LISTED}")
                for entry in new:
                    print(f"{entry.node} is avoided ({avoid.reason_of(entry)})")
            if added or allowed or to_apply:
                _apply(path, is_written=bool(added or allowed))
            else:
                _show(path)
        return FINISHED

    sys.exit(run_guarded(act))


def _user() -> str:
    """Return the name of the user; the number of one without a name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.geteuid()}"


def _apply(path: Path, *, is_written: bool) -> None:
    """Bring waiting jobs in line with the list, and say how many changed. Raises: FanalError, which says what was written."""
    from launch.chain import avoid

    try:
        changes = avoid.apply_list(path)
    except FanalError as error:
        what = f"{path} is written, and jobs obey it when they start; those that wait" if is_written else "waiting jobs"
        works = "`fanal launch nodes --apply` where Slurm answers changes them"
        raise type(error)(f"{what} are not yet changed: {error}; {works}") from None
    print(f"{len(changes)} waiting job(s) changed" if changes else "no waiting job had to change")


@click.command(context_settings=CONTEXT)
@click.argument("run_dir", type=Path, shell_complete=complete_path)
@click.option("--until-step", type=int, help="End the chain with the checkpoint of this step.")
@click.option(
    "--until-loss",
    type=float,
    help="End it once the validation loss (mean over domains) is this or less; without validation, the train loss.",
)
@click.option("--no-until", is_flag=True, help="Take the conditions away.")
def chain(run_dir: Path, until_step: int | None, until_loss: float | None, no_until: bool) -> None:
    """Show, or set, the condition that ends the chain of a run before its last step. It counts for jobs that run, too.

    A job that trains to an earlier step stops there, and the next one goes on.
    """

    def act() -> int:
        from launch.chain.launch_folder import hold_launch_folder
        from launch.chain.until import Until, asked_until, last_step_of, read_until, write_until

        folder = run_dir / LAUNCH_DIR
        with user_path(run_dir):
            train_steps, has_validation = last_step_of(folder)
            if until_step is None and until_loss is None and not no_until:
                print(f"{run_dir}: until {read_until(folder).words()}")
                return FINISHED
            if no_until and (until_step is not None or until_loss is not None):
                raise UserError(
                    "--no-until must stand alone: it takes conditions away; leave out --until-step and --until-loss"
                )
            until = Until() if no_until else asked_until(
                run_dir, step=until_step, loss=until_loss, train_steps=train_steps, has_validation=has_validation
            )  # fmt: skip
            with hold_launch_folder(folder):
                write_until(folder, until)
        print(f"{run_dir}: until {until.words()}")
        return FINISHED

    sys.exit(run_guarded(act))


def _names(option: str, given: str | None) -> tuple[str, ...]:
    """Return the names of nodes in an option's value. Raises: UserError if it is none."""
    from launch import slurm

    if given is None:
        return ()
    group = r"\[[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*\]"
    item = rf"[A-Za-z0-9]([A-Za-z0-9_.-]|{group})*"
    if not re.fullmatch(f"{item}(,{item})*", given):
        raise UserError(
            f"{option} ({given!r}) must be names of nodes, or groups such as n[7-9], with commas between; {option} n7,n8 works"
        )
    if "[" not in given:
        return tuple(dict.fromkeys(given.split(",")))
    _check_groups(option, given)
    found = slurm.hostnames(given)
    if not found:
        raise UserError(f"{option} ({given!r}) must name nodes, and Slurm finds none in it; {option} n7,n8 works")
    return tuple(dict.fromkeys(found))


def _check_groups(option: str, given: str) -> None:
    """Refuse groups that count down, of which Slurm finds no node, and more nodes than a list has room for."""
    number, falling = 0, ""
    for item in re.findall(r"(?:[^,\[]|\[[^]]*\])+", given):
        size = 1
        for group in re.findall(r"\[([^]]*)\]", item):
            ranges = [
                (int(first), int(last or first))
                for first, _, last in (part.partition("-") for part in group.split(","))
            ]
            falling = next((f"{first}-{last}" for first, last in ranges if first > last), falling)
            size *= sum(abs(last - first) + 1 for first, last in ranges)
        number += size
    if number > MAX_NODES:
        raise UserError(
            f"{option} ({shown(given)}) must name at most {MAX_NODES:,} nodes, and names {number:,}; {option} n[1-9] works"
        )
    if falling:
        works = "-".join(reversed(falling.split("-")))
        raise UserError(
            f"{option} ({shown(given)}) must count upwards, and {falling} does not; {works} in its place works"
        )


def _check_options(added: tuple[str, ...], allowed: tuple[str, ...], hours: float | None, reason: str | None) -> None:
    from launch.chain.node_list import MAX_HOURS

    if both := sorted(set(added) & set(allowed)):
        raise UserError(f"--exclude and --allow must not both name {both[0]}; --allow {both[0]} alone works")
    if not added and (hours is not None or reason is not None):
        raise UserError("--hours and --reason must come with --exclude NODE; leave them out")
    if hours is not None and not 0 < hours <= MAX_HOURS:
        raise UserError(f"--hours ({hours:g}) must be above 0 and at most {MAX_HOURS:g}; --hours 48 works")


def _show(path: Path) -> None:
    from rich.table import Table

    from fanal.console import print_table
    from fanal.shown import on_one_line
    from launch.chain.node_list import read_list, utc_now

    entries, now = read_list(path)[0], utc_now()
    holding = [entry for entry in entries if entry.holds(now)]
    if holding:
        table = Table("node", "until (UTC)", "reason", "by", "added (UTC)", show_edge=False, header_style="bold")
        for entry in holding:
            until = "for good" if entry.until is None else f"{entry.until:%Y-%m-%d %H:%M}"
            table.add_row(*map(on_one_line, (entry.node, until, entry.reason, entry.by, entry.added)))
        print_table(table, columns=250)
    expired = len(entries) - len(holding)
    print(f"{len(holding)} node(s) avoided{f', {expired} expired' if expired else ''}: {path}")


@click.command(context_settings=CONTEXT)
@click.option(
    "--from",
    "run_dir",
    type=Path,
    required=True,
    metavar="RUN_DIR",
    shell_complete=complete_path,
    help="Run whose decisions are told.",
)
def notify(run_dir: Path) -> None:
    """Send the decisions of a chain that are not yet told to the webhook of FANAL_WEBHOOK_URL or FANAL_WEBHOOK_FILE.

    For machines whose compute nodes have no internet: run it on a login node, again and again if you like.
    """

    def act() -> int:
        from launch.chain.notify import notify_now

        return notify_now(run_dir)

    sys.exit(run_guarded(act))
