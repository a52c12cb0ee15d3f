"""What happens after a job, case by case."""

import pytest

from launch.chain.decide import Facts, decide, run_exit_code

LIMIT = 3


def action(**facts: object) -> tuple[str, str]:
    decision = decide(Facts(**facts), max_restarts_without_checkpoint=LIMIT)
    return decision.action, decision.reason


def test_a_complete_run_ends_the_chain() -> None:
    assert action(exit_code=0, jobs_waiting=2) == ("finish", "the run is complete")


@pytest.mark.parametrize(("code", "why"), [(2, "the input is wrong"), (76, "failed verification")])
def test_what_starting_again_cannot_mend_stops_the_chain(code: int, why: str) -> None:
    acts, reason = action(exit_code=code, said="data.seq_length (0) must", walltime_signal=True, jobs_waiting=2)
    assert acts == "stop" and why in reason and reason.endswith("): data.seq_length (0) must")


def test_the_end_of_a_job_hands_over_to_the_next_of_the_chain_or_goes_on_itself() -> None:
    facts = {"exit_code": 75, "walltime_signal": True, "step_before": 10, "step_after": 20}
    assert action(**facts, jobs_waiting=1)[0] == "hand over"
    assert action(**facts) == ("requeue", "stopped with a checkpoint of step 20 (the end of the job was near)")


def test_a_stop_file_stops_the_chain_even_near_the_end_of_the_job() -> None:
    acts, reason = action(
        exit_code=75, asked_by="STOP file, SIGUSR1 on all ranks", walltime_signal=True, jobs_waiting=1
    )
    assert acts == "stop" and "STOP file" in reason


def test_a_job_cancelled_by_hand_stops_the_chain_whether_it_could_save_or_not() -> None:
    assert action(exit_code=75, ended_by="cancelled", step_after=7)[0] == "stop"
    assert action(exit_code=70, ended_by="cancelled", step_after=7) == (
        "stop", "the job was cancelled by hand; its newest checkpoint is of step 7",
    )  # fmt: skip


def test_a_job_that_slurm_put_back_goes_on() -> None:
    assert action(exit_code=75, ended_by="requeued by Slurm", step_after=7)[0] == "requeue"


@pytest.mark.parametrize("code", [70, 77, 1, 137])
def test_crashes_and_hangs_are_requeued_and_counted(code: int) -> None:
    decision = decide(Facts(exit_code=code, restarts_without_checkpoint=1), max_restarts_without_checkpoint=LIMIT)
    assert (decision.action, decision.restarts_without_checkpoint) == ("requeue", 2)


def test_a_crash_is_requeued_even_if_other_jobs_wait() -> None:
    assert action(exit_code=70, jobs_waiting=2)[0] == "requeue"


def test_too_many_restarts_without_a_checkpoint_stop_the_chain_whatever_their_kind() -> None:
    for code in (70, 77, 75):
        acts, reason = action(exit_code=code, restarts_without_checkpoint=LIMIT - 1, step_before=5, step_after=5)
        assert acts == "stop" and reason.startswith(
            "3 restarts in a row without a new checkpoint (the newest is of step 5)"
        )


def test_a_new_checkpoint_sets_the_count_back() -> None:
    facts = Facts(exit_code=70, restarts_without_checkpoint=LIMIT - 1, step_before=5, step_after=6)
    decision = decide(facts, max_restarts_without_checkpoint=LIMIT)
    assert (decision.action, decision.restarts_without_checkpoint) == ("requeue", 0)


def test_a_lost_node_is_named_and_left_out() -> None:
    decision = decide(Facts(exit_code=70, lost_nodes=("n2",)), max_restarts_without_checkpoint=LIMIT)
    assert (decision.action, decision.reason, decision.exclude) == ("requeue", "lost n2", ("n2",))


@pytest.mark.parametrize(
    ("codes", "whole"),
    [
        ({0: 0, 1: 0}, 0),
        ({0: 75, 1: 75}, 75),
        ({0: 75, 1: 0}, 75),
        ({0: 2, 1: 70}, 2),
        ({0: 70, 1: 76}, 76),
        ({0: 77, 1: 70}, 77),
        ({0: 70, 1: 75}, 70),
        ({0: 75}, 70),
        ({}, 70),
        ({0: 0, 1: 139}, 70),
    ],
)
def test_one_code_speaks_for_all_ranks(codes: dict[int, int], whole: int) -> None:
    assert run_exit_code(codes, 2) == whole
