"""Which nodes are named, for what, and which are not."""

import random
import statistics
from dataclasses import replace

import pytest

from launch.preflight.outliers import NodeReport, NodeVerdict, clock_offsets, judge, medians_of_others
from launch.sites.schema import NodeCheckConfig

LIMITS = NodeCheckConfig()


def sound(node: str, **changed: object) -> NodeReport:
    report = NodeReport(
        node=node, stage="done", gpu_memory_gib=[79.1] * 4, gemm_tflops=[700.0, 701.0, 702.0, 703.0],
        copy_gb_per_s=[2500.0] * 4, exchange_gb_per_s=[40.0] * 4, all_reduce_gb_per_s=[300.0] * 4, write_s=0.2, clock_s=1000.0,
    )  # fmt: skip
    return replace(report, **changed)


def verdict(*reports: NodeReport, nodes: int | None = None) -> NodeVerdict:
    names = [f"n{number + 1}" for number in range(nodes or len(reports))]
    return judge({report.node: report for report in reports}, names, LIMITS, gpus=4, memory_gib=80)


def test_sound_nodes_have_no_finding() -> None:
    found = verdict(*(sound(f"n{number}") for number in range(1, 9)))
    assert found == NodeVerdict(findings=())


def test_a_slow_node_among_four_is_named_with_how_much() -> None:
    found = verdict(sound("n1"), sound("n2"), sound("n3", gemm_tflops=[700.0, 350.0, 702.0, 703.0]), sound("n4"))
    (finding,) = found.findings
    assert (finding.node, finding.kind, finding.what, finding.value, finding.median) == (
        "n3",
        "slow",
        "matrix product",
        350,
        700,
    )
    assert finding.times_slower == 2.0
    assert finding.text == "matrix product 2.00x slower: 350 TFLOP/s (GPU 1), median of the others 700"
    assert (found.nodes("slow"), found.nodes("broken")) == (["n3"], [])


def test_a_slow_node_of_two_is_named_and_the_other_is_not() -> None:
    assert verdict(sound("n1", copy_gb_per_s=[2500.0, 2500.0, 2500.0, 1000.0]), sound("n2")).nodes("slow") == ["n1"]


def test_a_node_is_not_part_of_what_it_is_held_against() -> None:
    found = verdict(sound("n1", gemm_tflops=[100.0]), sound("n2"), sound("n3"))
    assert found.findings[0].median == 700


@pytest.mark.parametrize(
    ("limit", "at", "beyond"),
    [
        ("gemm_slower", {"gemm_tflops": [700 / 1.25]}, {"gemm_tflops": [700 / 1.26]}),
        ("copy_slower", {"copy_gb_per_s": [2500 / 1.25]}, {"copy_gb_per_s": [2500 / 1.26]}),
        ("network_slower", {"exchange_gb_per_s": [40 / 1.25]}, {"exchange_gb_per_s": [40 / 1.26]}),
        ("write_slower", {"write_s": 0.2 * 1.25}, {"write_s": 0.2 * 1.26}),
    ],
)
def test_at_its_tolerance_a_node_is_not_slow_yet(limit: str, at: dict, beyond: dict) -> None:
    others = {f"n{number}": sound(f"n{number}", gemm_tflops=[700.0]) for number in (1, 2)}

    def slow(changed: dict) -> list[str]:
        three = {**others, "n3": sound("n3", **{"gemm_tflops": [700.0], **changed})}
        return judge(three, list(three), replace(LIMITS, **{limit: 1.25}), gpus=4, memory_gib=80).nodes("slow")

    assert slow(at) == []
    assert slow(beyond) == ["n3"]


def test_a_slow_write_that_takes_no_time_is_one_busy_moment() -> None:
    assert verdict(sound("n1", write_s=0.002), sound("n2", write_s=0.09)).findings == ()


def test_a_missing_node_is_named() -> None:
    others = [sound(node, stage="reached", error="timed out", exchange_gb_per_s=[]) for node in ("n1", "n2", "n4")]
    found = verdict(*others, nodes=4)
    assert found.nodes("broken") == ["n3"] and not found.stuck
    assert found.findings[0].text == "did not report"


def test_a_node_that_stopped_earlier_than_the_others_is_named_with_its_error() -> None:
    waiting = [sound(node, stage="met", error="connection closed") for node in ("n1", "n2", "n3")]
    found = verdict(*waiting, sound("n4", stage="started", error="CUDA error: uncorrectable ECC error"))
    assert found.nodes("broken") == ["n4"]
    assert found.findings[0].text == "got no further than 'started': CUDA error: uncorrectable ECC error"


def test_of_nodes_that_stopped_at_the_same_stage_the_silent_one_is_named() -> None:
    waiting = [sound(node, stage="met", error="timed out") for node in ("n1", "n2", "n4")]
    found = verdict(*waiting[:2], sound("n3", stage="met"), waiting[2])
    assert [finding.text for finding in found.findings] == ["got no further than 'met': it fell silent"]
    assert found.nodes("broken") == ["n3"]


def test_no_node_is_named_if_all_stopped_alike() -> None:
    found = verdict(*(sound(f"n{number}", stage="met", error="no route") for number in range(1, 5)))
    assert found.findings == ()
    assert found.stuck == "4 of 4 nodes did not finish, and none stands out (n1: no route)"


def test_no_node_is_named_if_none_came() -> None:
    assert verdict(nodes=3).stuck == "3 of 3 nodes did not finish, and none stands out (no error)"


def test_the_only_node_is_named_if_it_did_not_come() -> None:
    assert verdict(nodes=1).nodes("broken") == ["n1"]


def test_a_node_that_lacks_a_gpu_is_broken() -> None:
    found = verdict(sound("n1"), sound("n2", gpu_memory_gib=[79.1] * 3))
    assert [(f.node, f.kind, f.text) for f in found.findings] == [("n2", "broken", "has 3 GPUs, should have 4")]


def test_a_gpu_with_too_little_memory_is_broken_and_three_percent_less_is_not() -> None:
    assert verdict(sound("n1", gpu_memory_gib=[80 * 0.97] * 4), sound("n2")).findings == ()
    found = verdict(sound("n1", gpu_memory_gib=[79.1, 79.1, 77.5, 79.1]), sound("n2"))
    assert [f.text for f in found.findings] == ["has 77.5 GiB of memory on GPU 2, should have 80"]


def test_more_gpus_than_the_job_asked_for_are_not_held_against_a_node() -> None:
    assert verdict(sound("n1", gpu_memory_gib=[79.1] * 4 + [10.0]), sound("n2")).findings == ()


def test_a_node_that_cannot_write_is_broken() -> None:
    found = verdict(sound("n1"), sound("n2", write_s=None, write_error="Read-only file system"))
    assert [(f.node, f.kind, f.text) for f in found.findings] == [
        ("n2", "broken", "cannot write to the run folder: Read-only file system")
    ]


def test_of_three_clocks_only_the_wrong_one_is_broken() -> None:
    found = verdict(sound("n1"), sound("n2"), sound("n3", clock_s=1010.0))
    assert [(f.node, f.kind, f.text) for f in found.findings] == [("n3", "broken", "has a clock +10.0 s off")]
    assert verdict(sound("n1"), sound("n2", clock_s=998.0), sound("n3")).findings == (), "at the tolerance"


def test_of_two_clocks_the_first_counts_as_right() -> None:
    assert verdict(sound("n1", clock_s=990.0), sound("n2")).nodes("broken") == ["n2"]
    assert clock_offsets([sound("n1", clock_s=990.0), sound("n2")]) == {"n1": 0.0, "n2": 10.0}


def test_a_single_node_is_compared_with_the_site_only() -> None:
    alone = sound("n1", gemm_tflops=[1.0], exchange_gb_per_s=[], clock_s=5.0)
    assert verdict(alone).findings == ()
    assert verdict(replace(alone, gpu_memory_gib=[])).nodes("broken") == ["n1"]


@pytest.mark.parametrize("number", [2, 3, 4, 5, 8, 9, 33])
def test_the_median_of_the_others_is_what_statistics_says(number: int) -> None:
    draw = random.Random(number)
    figures = {f"n{node}": draw.choice([1.0, 2.0, 2.0, draw.random()]) for node in range(number)}
    expected = {
        node: statistics.median([value for other, value in figures.items() if other != node]) for node in figures
    }
    assert medians_of_others(figures) == expected and list(medians_of_others(figures)) == list(figures)


def test_a_node_alone_has_no_others() -> None:
    assert medians_of_others({"n1": 3.0}) == {} == medians_of_others({})
