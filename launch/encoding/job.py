"""Merge job of an encoding: join the parts, or queue again what is missing, or say why that would not help.

jobs.jsonl in PREFIX.launch/ has a line for each: submitted (by a user; jobs), retried (by a merge, before it queues anything;
parts), queued (what it then did; jobs, parts), merged, stopped (reason, exit_code). Retries are counted since the last line of a
user's, or the last stop: a start after that is a user's.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from fanal.errors import FanalError, error_type
from fanal.exit_codes import CRASH, DAMAGED, FINISHED, STOPPED, WRONG_INPUT
from fanal.fields import is_texts
from fanal.ownership import close_new_files, make_own_folder
from fanal.shown import on_one_line
from launch import slurm
from launch.chain import jobs_file
from launch.chain.launch_folder import own_script
from launch.chain.script import EXIT_CODES
from launch.encoding.encode import FACTS, array_of, queue
from launch.encoding.script import ENCODE_SCRIPT, LOGS, MERGE_SCRIPT

HOPELESS = (WRONG_INPUT, DAMAGED)
"""Exit codes of tasks that would fail in the same way again."""
QUOTED_LINES = 5
QUOTED_PARTS = 3


def merge(folder: Path) -> int:
    """Merge the parts. Returns the exit code of the job: 0 the shard exists; 75 parts were queued again; else it says
    what to do.

    Not 0 after queueing again: a job may wait for this one with ``afterok``.
    Raises: UserError if the folder is not the launch folder of an encoding.
    """
    close_new_files()
    make_own_folder(folder, name="the launch folder")  # that of version 0.1 may be open to the group
    facts = _facts(folder)
    if Path(f"{facts['prefix']}.json").exists():
        return _tokenizer("verify", facts["prefix"])
    if arrays := _being_encoded(facts):
        return _wait(folder, arrays)
    missing = [part for part in range(1, facts["parts"] + 1) if not _manifest(facts, part).is_file()]
    codes = {part: _code(folder, part) for part in range(1, facts["parts"] + 1)}
    hopeless = [part for part in missing if codes[part] in HOPELESS]
    # A task that found its part damaged said so; a user may have put it right since.
    found_damaged = [part for part in codes if part not in missing and codes[part] == DAMAGED]
    hopeless += [part for part in found_damaged if _tokenizer("verify", _prefix(facts, part)) == DAMAGED]
    if hopeless:
        return _give_up(folder, facts, sorted(hopeless), codes)
    if missing:
        return _again(folder, facts, missing, codes)
    prefixes = [_prefix(facts, part) for part in range(1, facts["parts"] + 1)]
    code = _tokenizer("merge", *prefixes, "--output", facts["prefix"])
    if code == FINISHED:
        jobs_file.try_note(folder, "merged", parts=facts["parts"])
        print(f"{facts['prefix']}: merged; {facts['parts_dir']} is not needed any more", flush=True)
        return code
    return _stop(folder, f"the merge ended with exit code {code}; `sbatch {folder / MERGE_SCRIPT}` tries again", code)


def retries(folder: Path) -> int:
    """Return how often parts were queued again since a user last started this."""
    events = [record["event"] for record in jobs_file.read(folder)]
    begin = max((number + 1 for number, event in enumerate(events) if event in ("submitted", "stopped")), default=0)
    return events[begin:].count("retried")


def continue_command(folder: Path, parts: list[int], at_once: int | None) -> str:
    """Return the command with which a user queues these parts, and the merge after them."""
    encode, merge = (shlex.quote(str(folder / name)) for name in (ENCODE_SCRIPT, MERGE_SCRIPT))
    array = f"sbatch --parsable --array={array_of(parts, at_once)} {encode}"
    return f"array=$({array}) && sbatch --dependency=afterany:$array {merge}"


def _again(folder: Path, facts: dict[str, Any], missing: list[int], codes: dict[int, int | None]) -> int:
    """Queue missing parts again, unless that was done too often."""
    used, why = retries(folder), "; ".join(_how(part, codes[part]) for part in missing[:QUOTED_PARTS])
    what = f"{len(missing)} of {facts['parts']} parts missing ({', '.join(map(str, missing))}): {why}"
    what += ", ..." if len(missing) > QUOTED_PARTS else ""
    command = continue_command(folder, missing, facts["at_once"])
    if _was_cancelled(folder):
        return _stop(folder, f"{what}; the array was cancelled by hand. To continue: {command}", CRASH)
    if used >= facts["retries"]:
        for part in missing[:QUOTED_PARTS]:
            _quote(folder, part)
        cut_off = any(_was_cut_off(codes[part]) for part in missing)
        advice = f"; tasks that ran out of time need more than --hours {facts['minutes'] / 60:g}" if cut_off else ""
        return _stop(folder, f"{what}; queued again {used} time(s), no more{advice}. To continue: {command}", CRASH)
    try:
        # Before anything is queued: a retry that cannot be counted, as on a full disk, would be followed by others forever.
        jobs_file.must_note(folder, "retried", parts=missing)
        array, merging = queue(folder, event="queued", parts=missing, at_once=facts["at_once"])
    except FanalError as error:  # of Slurm, or of the file
        return _stop(folder, f"{what}; queueing them again failed: {error}. To continue: {command}", CRASH)
    print(f"{what}; queued again as job {array}, merge {merging} ({used + 1} of {facts['retries']})", flush=True)
    return STOPPED


def _give_up(folder: Path, facts: dict[str, Any], parts: list[int], codes: dict[int, int | None]) -> int:
    """Stop for parts that would fail again."""
    for part in parts[:QUOTED_PARTS]:
        _quote(folder, part)
    why = "; ".join(_how(part, codes[part]) for part in parts[:QUOTED_PARTS]) + (
        ", ..." if len(parts) > QUOTED_PARTS else ""
    )
    damaged = [part for part in parts if _manifest(facts, part).is_file()]
    remove = f"remove {', '.join(_prefix(facts, part) + '.*' for part in damaged)}, " if damaged else ""
    command = continue_command(folder, parts, facts["at_once"])
    code = DAMAGED if damaged else WRONG_INPUT
    return _stop(
        folder,
        f"{why}: starting again unchanged would not help. Fix what the lines above say, {remove}and run: {command}",
        code,
    )


def _being_encoded(facts: dict[str, Any]) -> list[str]:
    """Return the arrays of this output in the queue, as where a user started the merge by hand; none where that is unknown."""
    try:
        return slurm.queued_jobs(facts["encode_name"], arrays=True)
    except slurm.SlurmError:
        return []


def _was_cancelled(folder: Path) -> bool:
    """Whether a user took a task of the last array out of the queue, as far as Slurm remembers it."""
    last = jobs_file.read(folder)[-1:]
    jobs = last[0].get("jobs") if last else None
    if not is_texts(jobs) or not jobs:
        return False  # its number is not noted: it was started by hand, or by a merge that was killed just then
    try:
        return "JobState=CANCELLED" in slurm.ask("scontrol", "show", "job", "--oneliner", jobs[0])
    except slurm.SlurmError:
        return False


def _wait(folder: Path, arrays: list[str]) -> int:
    """Queue this merge again after running arrays, since two tasks must not write the same part. Not a retry."""
    try:
        merging = slurm.submit(own_script(folder, MERGE_SCRIPT), f"--dependency=afterany:{':'.join(arrays)}")
    except FanalError as error:  # of Slurm, or of the script
        return _stop(
            folder, f"parts are being encoded ({', '.join(arrays)}), and the merge cannot wait: {error}", CRASH
        )
    print(f"parts are being encoded ({', '.join(arrays)}); queued merge {merging} after them", flush=True)
    return STOPPED


def _stop(folder: Path, reason: str, code: int) -> int:
    jobs_file.try_note(folder, "stopped", reason=reason, exit_code=code)
    print(f"error: {on_one_line(reason)}", file=sys.stderr, flush=True)
    return code


def _quote(folder: Path, part: int) -> None:
    path = folder / LOGS / f"{part}.out"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    said = [line for line in lines if line.strip()][-QUOTED_LINES:]
    print(f"part {part}, the end of {path}:", *(f"    {line}" for line in said), sep="\n", file=sys.stderr, flush=True)


def _how(part: int, code: int | None) -> str:
    if code is None:
        return f"part {part} was killed or never started"
    if _was_cut_off(code):
        return f"part {part} was ended by signal {code - 128}"
    meaning = {WRONG_INPUT: " (the input is wrong)", DAMAGED: " (its files are damaged)", CRASH: " (a crash)"}
    return f"part {part} ended with exit code {code}{meaning.get(code, '')}"


def _was_cut_off(code: int | None) -> bool:
    """Whether Slurm cut the task off, such as at the end of its time. Then the script mostly dies before it can leave a
    code."""
    return code is None or code > 128


def _code(folder: Path, part: int) -> int | None:
    """Return the exit code that a task left; None if it left none."""
    try:
        text = (folder / EXIT_CODES / str(part)).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _prefix(facts: dict[str, Any], part: int) -> str:
    return f"{facts['parts_dir']}/{part}"


def _manifest(facts: dict[str, Any], part: int) -> Path:
    return Path(f"{_prefix(facts, part)}.json")


def _tokenizer(*words: str) -> int:
    """Run a command of the tokenizer package; its output is the job's."""
    return subprocess.run([sys.executable, "-m", "tokenizer", *words]).returncode


def _facts(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise error_type(error)(
            f"{folder} must be the launch folder of an encoding, with {FACTS} ({error}); `fanal launch render-encode` makes it"
        ) from None
