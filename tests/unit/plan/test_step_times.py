"""The time of a step by hand, for a model small enough to count, and what a wrong figure of the machine does."""

import json
from dataclasses import replace

import pytest

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.plan.estimate import estimate_step
from pretrain.plan.machine import FigureConfig, MachineConfig, load_machine
from pretrain.plan.shapes import shapes_of
from pretrain.plan.work import CONTEXT_PIECES, micro_batch_work, step_work
from tests.golden.rehearsals import SETS, golden_path

H100 = load_machine("h100")


def run_of(*overrides: str) -> RunConfig:
    return load_run("configs/1b.yaml", overrides)


def changed(name: str, factor: float) -> MachineConfig:
    figure = getattr(H100, name)
    return replace(H100, **{name: FigureConfig(value=figure.value * factor, source="a test")})


def test_products_are_six_operations_a_weight_and_a_token() -> None:
    run = run_of()
    shapes = shapes_of(run, 8)
    layer = 2048 * (16 + 2 * 8) * 128 + 2048 * 2048 + 3 * 2048 * 5632
    weights = 24 * layer + 32768 * 2048
    assert micro_batch_work(run, shapes, 0).product_flops == 6 * 4 * 4096 * weights
    found = estimate_step(run, H100, 8)
    assert found.times.products == pytest.approx(16 * 6 * 2 * 4096 * weights / (989.4e12 * 0.7))


def test_the_operations_are_those_that_a_rehearsal_counts() -> None:
    """A rehearsal counts attention's whole rows, twice what is seen; where ranks share rows, those up to a chunk's end."""
    golden = json.loads(golden_path("shipped").read_text())
    compared = 0
    for case in SETS["shipped"]():
        if case.run.parallel.device == "cpu":
            continue  # its attention leaves out blocks that nobody sees
        shapes = shapes_of(case.run, case.num_ranks)
        work = micro_batch_work(case.run, shapes, case.rank // (case.num_ranks // shapes.pipeline))
        size = shapes.context
        whole = 2 * work.attention_flops * ((2 * size + 1) / (4 * size) if size > 1 else 1)
        assert shapes.micro_batches * (work.product_flops + whole) == pytest.approx(
            golden[case.name]["flops"], rel=0.001
        ), case.name
        compared += 1
    assert compared >= 9


def test_the_bytes_that_replicas_exchange_are_those_that_a_rehearsal_counts() -> None:
    golden = json.loads(golden_path("shipped").read_text())["lucie-7b-pretrain-fast, TP4 x PP2, rank 0 of 512"][
        "collectives"
    ]
    case = next(case for case in SETS["shipped"]() if case.name == "lucie-7b-pretrain-fast, TP4 x PP2, rank 0 of 512")
    found = step_work(case.run, shapes_of(case.run, 512), 0)
    counted = [
        golden[f"dp of 64: {one}"]["bytes"]
        for one in ("reduce_scatter_tensor_coalesced", "allgather_into_tensor_coalesced")
    ]
    assert [found.reduced_bytes, found.gathered_bytes] == pytest.approx(counted, rel=0.001)


def test_the_parts_add_up_to_the_step_and_give_the_speed() -> None:
    found = estimate_step(run_of(), H100, 8)
    assert found.tokens == 256 * 4096
    assert found.tokens_per_second_per_gpu == pytest.approx(found.tokens / found.step_s / 8)
    assert found.mfu_causal < found.mfu_full < 1


def test_the_bubble_is_that_of_the_published_formula() -> None:
    """(p - 1) / (v * m) of the time of m micro batches, where all stages do the same (Narayanan et al., 2021)."""
    layout = ("parallel.pipeline_model_parallel_size=4", "parallel.virtual_pipeline_model_parallel_size=2")
    run = load_run("configs/1b.yaml", [*layout, "train.micro_batch_size=1", "model.vocab_size=128"])
    times = estimate_step(run, H100, 8).times
    busy = times.products + times.attention + times.memory
    assert times.bubble == pytest.approx(busy * 3 / (2 * 128), rel=0.05)


@pytest.mark.parametrize(
    ("figure", "part"),
    [
        ("bf16_tflops", "products"),
        ("attention_fraction", "attention"),
        ("memory_gb_per_s", "memory"),
        ("node_gb_per_s", "communication"),
    ],
)
def test_a_machine_twice_as_fast_in_one_thing_takes_half_the_time_of_it(figure: str, part: str) -> None:
    run = run_of("parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true")
    before, after = (getattr(estimate_step(run, one, 8).times, part) for one in (H100, changed(figure, 2)))
    assert after < 0.75 * before


def test_a_slow_host_shows() -> None:
    run = run_of("train.micro_batch_size=1")
    assert estimate_step(run, H100, 8).times.host == 0
    assert estimate_step(run, changed("host_ms_per_layer", 100), 8).times.host > 0


def test_operations_of_torch_move_more_than_kernels_unless_they_are_compiled() -> None:
    """Counted by operation: 18 f for a gated activation instead of 9, and 22 times queries and keys instead of 4."""

    def moved(*overrides: str) -> float:
        run = run_of(*overrides)
        return micro_batch_work(run, shapes_of(run, 8), 0).memory_bytes

    tokens, layers, bf16 = 4 * 4096, 24, 2
    fused, activation, rotary = moved(), moved("kernels.activation=torch"), moved("kernels.rotary=torch")
    assert activation - fused == pytest.approx((18 - 9) * 5632 * tokens * layers * bf16)
    assert rotary - fused == pytest.approx((22 - 4) * (16 + 8) * 128 * tokens * layers * bf16)
    assert moved("kernels.activation=torch", "kernels.rotary=torch", "train.compile=true") == fused
    ungated = ("model.activation=squared_relu",)
    assert moved(*ungated, "kernels.activation=torch") == moved(*ungated)


CORE_LAYOUT = (
    "parallel.device=cpu", "train.precision=fp32", "model.hidden_size=384", "model.ffn_hidden_size=1024", "model.num_layers=4",
    "model.num_attention_heads=6", "model.num_query_groups=2", "data.seq_length=256", "train.micro_batch_size=2",
    "train.global_batch_size=4", "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1",
    "parallel.sequence_parallel=false",
)  # fmt: skip
CORE = replace(
    H100, node_gb_per_s=FigureConfig(value=1, source="a test"), collective_fraction=FigureConfig(value=1, source="a test"),
    sum_fraction=FigureConfig(value=0.25, source="a test"), node_latency_us=FigureConfig(value=100, source="a test"),
    node_sum_latency_us=FigureConfig(value=300, source="a test"),
)  # fmt: skip
GATHER, SUM = (1e9, 100e-6), (0.25e9, 300e-6)


def seconds(rate_and_latency: tuple[float, float], calls: int, num_bytes: float) -> float:
    rate, latency = rate_and_latency
    return calls * (num_bytes / 2 / rate + latency)


def replicas_s(run: RunConfig) -> float:
    work = step_work(run, shapes_of(run, 2), 0)
    return seconds(SUM, 1, work.reduced_bytes) + seconds(GATHER, 1, work.gathered_bytes)


@pytest.mark.parametrize(
    ("layout", "calls", "num_bytes"),
    [
        # two micro batches: for each of 4 layers 6 gathers and 4 scatters of the hidden state, and at each end one of each
        (("parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true"), (52, 36), 512 * 384 * 4),
        # for each layer keys and values of both groups, one message for a group; a core does nothing beside them
        (("parallel.context_parallel_size=2",), (16, 16), 512 * 2 * 64 * 4),
        (("parallel.data_parallel_size=2",), (0, 0), 0),
    ],
    ids=["tensor 2 + SP", "context 2", "data 2"],
)
def test_messages_of_cores_by_hand(layout: tuple[str, ...], calls: tuple[int, int], num_bytes: int) -> None:
    """As traces of the layouts count them: 52 gathers and 36 reduce-scatters a step, 16 and 16; replicas sum and gather once."""
    run = load_run("configs/tiny.yaml", [*CORE_LAYOUT, *layout])
    expected = seconds(GATHER, calls[0], num_bytes) + seconds(SUM, calls[1], num_bytes)
    expected += 0 if run.parallel.tensor_model_parallel_size > 1 else replicas_s(run)
    assert estimate_step(run, CORE, 2).times.communication == pytest.approx(expected)
    no_sums = replace(CORE, sum_fraction=None, node_sum_latency_us=None)
    assert estimate_step(run, no_sums, 2).times.communication < 0.6 * expected, "sums planned as gathers show"


def test_pieces_of_context_parallelism_are_those_of_the_model() -> None:
    from pretrain.model.context_parallel import MAX_PIECES  # imports megatron-core

    assert CONTEXT_PIECES == MAX_PIECES
