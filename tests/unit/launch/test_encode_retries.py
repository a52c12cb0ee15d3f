"""Retries of an encoding are counted whatever the disk and Slurm do: an array is not queued for ever."""

import shutil

import pytest

from launch.chain import jobs_file
from launch.encoding.job import retries
from tests.unit.launch.encoding import Encoding

needs_prlimit = pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit")


@needs_prlimit
def test_a_retry_that_cannot_be_counted_queues_nothing(encoding: Encoding) -> None:
    encoding.render(parts=1)
    for _ in range(4):
        merging = encoding.merge_on_a_full_disk(room=0)
        assert encoding.queued() == []
        assert merging.returncode == 70 and "Traceback" not in merging.stderr, merging.stderr
        assert f"{encoding.launch}/jobs.jsonl must be a file that you may write to" in merging.stderr
        assert "File too large" in merging.stderr and "To continue: array=" in merging.stderr


@needs_prlimit
def test_jobs_that_cannot_be_noted_are_taken_back_and_cost_one_retry(encoding: Encoding) -> None:
    encoding.render(parts=1, retries=1)
    encoding.fake("scancel", f'#!/bin/bash\necho "$@" >>{encoding.folder}/cancelled\n')
    merging = encoding.merge_on_a_full_disk(room=80)
    assert merging.returncode == 70 and "File too large" in merging.stderr and "To continue: array=" in merging.stderr
    assert (encoding.folder / "cancelled").read_text() == "101 102\n"
    assert [record["event"] for record in jobs_file.read(encoding.launch)] == ["retried"]
    assert "queued again 1 time(s), no more" in encoding.run("merge.sbatch").stderr


@needs_prlimit
def test_a_merge_that_cannot_be_noted_is_a_merge(encoding: Encoding) -> None:
    encoding.render(parts=1)
    assert encoding.task(1).returncode == 0
    merging = encoding.merge_on_a_full_disk(room=0)
    assert merging.returncode == 0 and "'merged' is not noted in" in merging.stderr, merging.stderr


def test_a_merge_that_is_killed_before_it_queues_anything_costs_one_retry(encoding: Encoding) -> None:
    encoding.render(parts=1)
    encoding.fake("scontrol", "#!/bin/bash\necho JobState=CANCELLED\n")
    encoding.fake("sbatch", "#!/bin/bash\nkill -9 $PPID\n")
    assert [encoding.run("merge.sbatch").returncode for _ in range(2)] == [-9, -9]
    assert retries(encoding.launch) == 2
    encoding.render(parts=1)
    merging = encoding.run("merge.sbatch")
    assert merging.returncode == 70 and "queued again 2 time(s), no more" in merging.stderr


def test_an_array_that_can_be_neither_followed_by_a_merge_nor_taken_back_is_named(encoding: Encoding) -> None:
    encoding.render(parts=1)
    encoding.fake("sbatch", "#!/bin/bash\n[[ $2 = --array* ]] && echo 101 || { echo too many jobs >&2; exit 1; }\n")
    encoding.fake("scancel", "#!/bin/bash\nexit 1\n")
    merging = encoding.run("merge.sbatch")
    still = "too many jobs; job 101 is still in the queue; `scancel 101` ends it. To continue: array="
    assert merging.returncode == 70 and still in merging.stderr
    assert still in jobs_file.read(encoding.launch)[-1]["reason"]
