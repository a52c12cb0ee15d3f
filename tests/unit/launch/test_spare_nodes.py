"""Which nodes of a job with spare ones train, and when a job trains again in its allocation."""

import json
import math
import time
from pathlib import Path

import pytest

from fanal.errors import PassingError, UserError
from launch import slurm
from launch.chain import jobs_file
from launch.chain.decide import Facts, decide
from launch.chain.inside import Room, room
from launch.chain.spare import candidates, choice, meeting_point
from launch.chain.spare_request import SPARE_NODES, check_spare_nodes, cost_of_spares
from launch.preflight.outliers import NodeReport, slowdowns
from pretrain.config.load import load_run, to_yaml
from tests.golden.launch_scripts import ROOT
from tests.unit.launch.run_folder import RunFolder, start, step

AMPLE = Room(left_s=500, start_up_s=60, interval_s=300)
SHORT = Room(left_s=300, start_up_s=60, interval_s=300)


def decided(**facts: object) -> tuple[str, str, int]:
    decision = decide(Facts(**facts), max_restarts_without_checkpoint=3, restarts_inside=1)  # type: ignore[arg-type]
    return decision.action, decision.reason, decision.restarts_without_checkpoint


@pytest.mark.parametrize("code", [70, 77])
def test_what_a_restart_can_heal_is_restarted_inside_while_there_is_time(code: int) -> None:
    action, reason, _ = decided(exit_code=code, room=AMPLE, jobs_waiting=2)
    assert action == "restart"
    assert reason.endswith("500 s until the job is told to stop, 60 s to start up and 300 s to the next checkpoint")
    action, reason, _ = decided(exit_code=code, room=SHORT)
    assert action == "requeue" and "300 s until the job is told to stop" in reason


def test_restarts_inside_that_bring_no_checkpoint_go_to_the_queue_and_then_end() -> None:
    assert decided(exit_code=70, room=AMPLE)[::2] == ("restart", 1)
    assert decided(exit_code=70, room=AMPLE, restarts_without_checkpoint=1)[::2] == ("requeue", 2)
    assert decided(exit_code=70, room=AMPLE, restarts_without_checkpoint=2)[::2] == ("stop", 3)
    assert decided(exit_code=70, room=AMPLE, restarts_without_checkpoint=2, step_after=8)[::2] == ("restart", 0)


@pytest.mark.parametrize(
    ("facts", "action"),
    [
        ({"exit_code": 0}, "finish"), ({"exit_code": 2}, "stop"), ({"exit_code": 76}, "stop"),
        ({"exit_code": 75, "walltime_signal": True, "jobs_waiting": 1}, "hand over"), ({"exit_code": 75}, "requeue"),
        ({"exit_code": 70, "walltime_signal": True}, "requeue"), ({"exit_code": 70, "ended_by": "cancelled"}, "stop"),
        ({"exit_code": 70, "ended_by": "requeued by Slurm"}, "requeue"), ({"exit_code": 70, "ended_by": "time limit"}, "requeue"),
    ],
)  # fmt: skip
def test_what_is_over_or_asked_for_is_not_restarted_inside(facts: dict[str, object], action: str) -> None:
    assert decided(**facts, room=AMPLE)[0] == action


def test_a_site_may_have_every_restart_wait_in_the_queue() -> None:
    decision = decide(Facts(exit_code=70, room=AMPLE), max_restarts_without_checkpoint=3, restarts_inside=0)
    assert (decision.action, decision.reason) == ("requeue", "a crash (exit code 70)")


def test_the_room_is_what_this_try_took_to_start_and_an_interval_of_its_steps(tmp_path: Path) -> None:
    run, now = RunFolder(tmp_path), time.time()
    config = tmp_path / "launch" / "config.yaml"
    config.write_text(to_yaml(load_run(ROOT / "configs" / "tiny.yaml", ["checkpoint.interval=50"])))
    run.metrics(start(0, time_unix_s=now - 60), step(1, step_time_s=3.0))
    found = room(tmp_path, config, began_s=now - 100, end_s=now + 1000, stop_margin_s=600)
    assert (found.left_s, found.start_up_s, found.interval_s) == (pytest.approx(400, abs=5), pytest.approx(40), 150)
    assert found.is_enough
    late = room(tmp_path, config, began_s=now - 20, end_s=None, stop_margin_s=600)
    assert late.start_up_s == pytest.approx(20, abs=5), "it never came so far: the record is an older try's"
    assert math.isinf(late.left_s) and late.is_enough
    assert not room(tmp_path, config, began_s=now - 100, end_s=now + 780, stop_margin_s=600).is_enough


def test_the_sick_are_left_out_and_then_the_slowest() -> None:
    nodes = ["n1", "n2", "n3", "n4"]
    found = {"broken": ["n2"], "slowdown": {"n1": 1.08, "n3": 0.99, "n4": 1.0}}
    chosen = choice(nodes, 2, found)
    assert (chosen.nodes, chosen.left_out, chosen.broken) == (("n3", "n4"), ("n1", "n2"), ("n2",))
    assert chosen.reason == "n2 is broken; n1 is 1.080 times as slow as the others"
    unmeasured = choice(nodes, 3, {})
    assert (unmeasured.nodes, unmeasured.reason) == (("n1", "n2", "n3"), "n4 was not measured")
    assert choice(nodes, 4, {}).reason == "no node is left over"
    with pytest.raises(PassingError, match="3 of the job's nodes can train, and 4 must"):
        choice(nodes, 4, found)


def test_the_slowest_is_the_one_that_is_furthest_behind_in_anything() -> None:
    reports = [
        NodeReport(node="n1", gemm_tflops=[10.0], copy_gb_per_s=[5.0]), NodeReport(node="n2", gemm_tflops=[9.0], copy_gb_per_s=[5.0]),
        NodeReport(node="n3", gemm_tflops=[10.0, 10.0], copy_gb_per_s=[5.0, 4.0]), NodeReport(node="n4"),
    ]  # fmt: skip
    assert slowdowns(reports) == {"n1": 0.95, "n2": pytest.approx(10 / 9), "n3": pytest.approx(1.25)}


@pytest.mark.parametrize(
    ("states", "noted", "expected"),
    [
        ({}, [], ("n1", "n2", "n3")),
        ({"n2": "MIXED+DRAIN"}, [], ("n1", "n3")),
        ({}, ["n1"], ("n2", "n3")),
        ({"n2": "DOWN"}, ["n1"], ("n1", "n3")),  # noted once, yet two must train
    ],
)
def test_the_candidates_are_neither_sick_nor_noted_while_others_are_enough(
    states: dict[str, str], noted: list[str], expected: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "launch").mkdir()
    jobs_file.note(
        tmp_path / "launch",
        "chosen",
        job="7",
        restart=0,
        inside=0,
        nodes=["n2"],
        left_out=noted,
        exclude=noted,
        reason="",
    )
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    monkeypatch.setenv(SPARE_NODES, "1")

    def ask(*command: str) -> str:
        if command[2] == "hostnames":
            return "n1 n2 n3"
        if command[2] == "job":
            return "JobId=7 NodeList=n[1-3] BatchHost=n1"
        return "\n".join(f"NodeName={node} State={states.get(node, 'MIXED')}" for node in ("n1", "n2", "n3"))

    monkeypatch.setattr(slurm, "ask", ask)
    assert candidates("7", tmp_path) == expected


def test_the_nodes_of_a_start_are_those_that_were_chosen(tmp_path: Path) -> None:
    for event, fields in (
        ("submitted", {"jobs": ["7"]}),
        ("started", {"job": "7", "restart": 0, "nodes": ["n1", "n2"], "step": 0}),  # as an older version writes it
        ("started", {"job": "7", "restart": 0, "inside": 1, "nodes": ["n1", "n2"], "step": 0}),
        ("chosen", {"job": "7", "restart": 0, "inside": 1, "nodes": ["n2"], "exclude": []}),
    ):
        jobs_file.note(tmp_path, event, **fields)
    found = [(attempt.inside, attempt.nodes) for attempt in jobs_file.attempts(jobs_file.read(tmp_path))]
    assert found == [(0, ("n1", "n2")), (1, ("n2",))]
    assert all(json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines())


def test_spare_nodes_say_what_they_cost_and_a_part_of_a_node_has_none() -> None:
    assert cost_of_spares(2, 8, hours=10) == ", and 2 spare node(s), idle for up to 20.0 of 100.0 node hours"
    assert cost_of_spares(0, 8, hours=10) == ""
    check_spare_nodes(1, gpus_per_node=None, most=9)
    with pytest.raises(UserError, match=r"--spare-nodes \(-1\) must be at least 0; --spare-nodes 0 works"):
        check_spare_nodes(-1, gpus_per_node=None, most=9)
    with pytest.raises(UserError, match="--spare-nodes 0 works"):
        check_spare_nodes(1, gpus_per_node=2, most=9)
    with pytest.raises(UserError, match=r"--spare-nodes \(10\) must not be above 9, .*--spare-nodes 1 works"):
        check_spare_nodes(10, gpus_per_node=None, most=9)


def test_the_script_s_node_is_known_where_no_slurmd_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-3]")
    monkeypatch.setenv("SLURM_NODEID", "0")
    monkeypatch.setattr(slurm, "node_host", lambda node: f"host-of-{node}")
    assert meeting_point("n1", "here:29500") == "here:29500"
    assert meeting_point("n2", "here:29500").startswith("host-of-n2:")
