"""``fanal rehearse`` on the command line."""

import json
import subprocess
import sys

from pretrain.config.load import load_run
from pretrain.rehearse.rehearse import first_of_stages
from tests.unit.rehearse.alone import ROOT

TINY = "configs/tiny.yaml"


def fanal(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "fanal", "rehearse", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def refused(*arguments: str) -> str:
    """The one line that a refusal says."""
    done = fanal(*arguments)
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_rank_that_is_not_there_is_refused() -> None:
    assert "--rank (4) must be one of the 4 ranks" in refused(TINY, "--ranks", "4", "--rank", "4")
    assert "--rank 3 works" in refused(TINY, "--rank", "-1")


def test_ranks_that_do_not_fit_the_layout_are_refused() -> None:
    assert "6 ranks cannot hold whole replicas" in refused(TINY, "--ranks", "6")
    assert "--ranks (0) must be at least 1" in refused(TINY, "--ranks", "0")


def test_memory_that_no_gpu_has_is_refused() -> None:
    assert "--memory (0) must be above 0" in refused(TINY, "--memory", "0")


def test_the_first_and_the_last_stage_are_shown_with_what_their_memory_is_made_of() -> None:
    done = fanal(TINY, "--ranks", "8", "parallel.device=auto", "train.precision=bf16", "--memory", "80")
    assert done.returncode == 0, done.stderr
    assert "rank 0" in done.stdout and "rank 4" in done.stdout
    assert "fits a GPU of: 80 GiB yes" in done.stdout
    for row in ("gradients of the weights", "activations: feed-forward", "tp of 2: allgather", "times the host waits"):
        assert row in done.stdout


def test_the_middle_stage_that_is_rehearsed_has_most_layers_of_those_between() -> None:
    def shown(pipeline: int, layers: str) -> list[int]:
        stages = [f"parallel.pipeline_model_parallel_size={pipeline}", f"parallel.pipeline_layers={layers}"]
        run = load_run(ROOT / TINY, [*stages, f"model.num_layers={sum(json.loads(layers))}"])
        return first_of_stages(run, 4 * pipeline)

    assert shown(4, "[2,2,2,2]") == [0, 8, 12]
    assert shown(4, "[1,3,2,2]") == [0, 4, 12]
    assert shown(4, "[5,1,1,1]") == [0, 8, 12]
    assert shown(3, "[1,2,1]") == [0, 4, 8]
    assert shown(2, "[1,3]") == [0, 4]


def test_a_stage_with_more_layers_has_their_weights_and_their_operations() -> None:
    found = []
    for layers in ("null", "[1,3]"):
        done = fanal(TINY, "--ranks", "4", "--json", "parallel.device=auto", f"parallel.pipeline_layers={layers}")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["ranks"])
    equal, unequal = found
    assert [rank["num_layers"] for rank in (*equal, *unequal)] == [2, 2, 1, 3]
    for count in (lambda rank: rank["num_parameters"], lambda rank: rank["step"]["flops"]):
        layer = count(equal[0]) - count(unequal[0])
        assert layer > 0 and count(unequal[1]) == count(equal[1]) + layer


def test_json_is_one_object_whose_parts_add_up() -> None:
    done = fanal(TINY, "--rank", "3", "--json", "parallel.device=auto", "train.precision=bf16")
    assert done.returncode == 0, done.stderr
    (rank,) = json.loads(done.stdout)["ranks"]
    assert (rank["rank"], rank["num_ranks"], rank["pp_rank"], rank["tp_rank"]) == (3, 4, 1, 1)
    for what in ("peak_parts", "peak_lines"):
        assert sum(part["num_bytes"] for part in rank[what]) == rank["peak_bytes"]
