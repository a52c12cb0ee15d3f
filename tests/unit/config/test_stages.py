"""Which layers every pipeline stage has: all of them once, in order, and as megatron numbers them."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core import parallel_state
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from fanal.errors import UserError
from pretrain.config.derive import layer_parameters, padded_vocab_size
from pretrain.config.rules import check
from pretrain.config.schema import ModelConfig, ParallelConfig, RunConfig
from pretrain.config.stage_rules import check_stages
from pretrain.config.stages import balanced_sizes, chunk_sizes, rank_sizes, sizes_text, unequal_text
from pretrain.model.translate import transformer_config
from tests.unit.config.test_rules import valid_run

MODEL = ModelConfig(
    num_layers=4, hidden_size=64, ffn_hidden_size=176, num_attention_heads=8, num_query_groups=4, vocab_size=2000
)


def chunk_layers(model: ModelConfig, parallel: ParallelConfig) -> list[range]:
    """The layers of every model chunk, counted from 0."""
    ends = [*itertools.accumulate(chunk_sizes(model, parallel), initial=0)]
    return [range(first, end) for first, end in itertools.pairwise(ends)]


def laid_out(layers: int, pipeline: int, virtual: int = 1, **stages: object) -> tuple[ModelConfig, ParallelConfig]:
    parallel = ParallelConfig(
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=virtual,
        **stages,  # type: ignore[arg-type]
    )
    return replace(MODEL, num_layers=layers), parallel


def is_accepted(model: ModelConfig, parallel: ParallelConfig) -> bool:
    try:
        check_stages(parallel, model)
    except UserError:
        return False
    return True


def small_pipelines() -> Iterator[tuple[ModelConfig, ParallelConfig]]:
    """Every way to state the stages of up to seven layers on up to four ranks."""
    ends = (None, 1, 2, 3)
    for layers, pipeline, virtual in itertools.product(range(1, 8), range(1, 5), (1, 2)):
        for first, last in itertools.product(ends, ends):
            yield laid_out(
                layers, pipeline, virtual,
                num_layers_in_first_pipeline_stage=first, num_layers_in_last_pipeline_stage=last,
            )  # fmt: skip
        if pipeline * virtual <= 4:
            for sizes in itertools.product(range(4), repeat=pipeline * virtual):
                yield laid_out(layers, pipeline, virtual, pipeline_layers=[*sizes])


def test_every_accepted_pipeline_has_each_layer_once_and_in_order() -> None:
    accepted = [case for case in small_pipelines() if is_accepted(*case)]
    assert len(accepted) > 200
    for model, parallel in accepted:
        chunks = chunk_layers(model, parallel)
        assert len(chunks) == parallel.pipeline_model_parallel_size * parallel.virtual_pipeline_model_parallel_size
        assert [layer for chunk in chunks for layer in chunk] == [*range(model.num_layers)], parallel
        assert all(chunks), f"a stage without layers: {parallel}"
        assert sum(rank_sizes(model, parallel)) == model.num_layers


def as_megatron_takes_it(model: ModelConfig, parallel: ParallelConfig) -> TransformerConfig | None:
    """With megatron's own keys of these names, in place of the layout that it is given; None where it refuses them."""
    virtual = parallel.virtual_pipeline_model_parallel_size
    try:
        return TransformerConfig(
            num_layers=model.num_layers, hidden_size=8, num_attention_heads=1, pipeline_dtype=torch.float32,
            pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
            virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
            num_layers_in_first_pipeline_stage=parallel.num_layers_in_first_pipeline_stage,
            num_layers_in_last_pipeline_stage=parallel.num_layers_in_last_pipeline_stage,
        )  # fmt: skip
    except ValueError:
        return None


def test_first_and_last_stage_mean_what_they_mean_to_megatron() -> None:
    compared = refused = 0
    for model, parallel in small_pipelines():
        ends = parallel.num_layers_in_first_pipeline_stage, parallel.num_layers_in_last_pipeline_stage
        pipeline, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
        if pipeline == 1 or ends == (None, None):
            continue
        if virtual > 1 and pipeline == 2 and None not in ends:
            continue  # megatron divides by the ranks between them, which are none
        config = as_megatron_takes_it(model, parallel)
        if not is_accepted(model, parallel):
            refused += config is None
            assert config is None or min(chunk_sizes(model, parallel)) < 1, f"megatron takes {parallel}"
            continue
        assert config is not None
        for stage, rank in itertools.product(range(virtual), range(pipeline)):
            layers = chunk_layers(model, parallel)[stage * pipeline + rank]
            vp_stage = stage if virtual > 1 else None
            assert get_num_layers_to_build(config, vp_stage, rank) == len(layers), (parallel, stage, rank)
            assert get_transformer_layer_offset(config, vp_stage, rank) == layers.start, (parallel, stage, rank)
        compared += 1
    assert compared > 30 and refused > 100


@pytest.mark.parametrize(
    "parallel",
    [
        laid_out(6, 2, 2, pipeline_layers=[2, 1, 1, 2])[1],
        laid_out(6, 4, num_layers_in_first_pipeline_stage=1, num_layers_in_last_pipeline_stage=1)[1],
        laid_out(6, 3)[1],
        laid_out(6, 3, 2)[1],
        laid_out(6, 1)[1],
    ],
)
def test_megatron_numbers_the_layers_of_a_chunk_as_the_config_does(parallel: ParallelConfig) -> None:
    run: RunConfig = valid_run()
    run = replace(run, model=replace(run.model, num_layers=6), parallel=replace(parallel, device="cpu"))
    run = replace(run, train=replace(run.train, global_batch_size=24))
    check(run)
    config = transformer_config(run)
    pipeline, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    chunks = chunk_layers(run.model, parallel)
    if pipeline == 1:
        assert config.pipeline_model_parallel_layout is None and get_transformer_layer_offset(config, None, 0) == 0
        return
    layout = config.pipeline_model_parallel_layout
    assert isinstance(layout, PipelineParallelLayerLayout)
    with mock.patch.object(
        parallel_state, "get_virtual_pipeline_model_parallel_world_size", lambda: virtual if virtual > 1 else None
    ):
        for stage, rank in itertools.product(range(virtual), range(pipeline)):
            numbers = layout.get_layer_id_list(vp_stage=stage, pp_rank=rank)
            assert numbers == [*chunks[stage * pipeline + rank]], (stage, rank)


@given(
    chunks=st.integers(2, 16),
    more=st.integers(0, 100),
    hidden=st.sampled_from((64, 1024, 8192)),
    vocabulary=st.sampled_from((2, 2000, 32_000, 256_000)),
)
@settings(max_examples=100, deadline=None)
def test_balanced_stages_hold_all_layers_and_no_move_makes_the_heaviest_lighter(
    chunks: int, more: int, hidden: int, vocabulary: int
) -> None:
    model = replace(
        MODEL, num_layers=chunks + more, hidden_size=hidden, ffn_hidden_size=3 * hidden, vocab_size=vocabulary
    )
    sizes = balanced_sizes(model, chunks)
    _, parallel = laid_out(model.num_layers, chunks, pipeline_layers=sizes)
    check_stages(parallel, model)
    end = padded_vocab_size(model) * hidden / layer_parameters(model)
    weights = [size + end * (place in (0, chunks - 1)) for place, size in enumerate(sizes)]
    for heavy, light in itertools.permutations(range(chunks), 2):
        if sizes[heavy] > 1:
            assert weights[heavy] <= weights[light] + 1 + 1e-9, "a layer is better off elsewhere"


def test_a_model_of_many_layers_gets_lighter_ends() -> None:
    """A layer of this model has three quarters of the parameters of its embedding."""
    model = replace(
        MODEL, num_layers=32, hidden_size=4096, ffn_hidden_size=12288, num_attention_heads=32, num_query_groups=8,
        vocab_size=65_024,
    )  # fmt: skip
    assert balanced_sizes(model, 4) == [7, 9, 9, 7]
    assert sum(balanced_sizes(model, 32)) == 32 and sum(balanced_sizes(replace(model, num_layers=10_000), 8)) == 10_000


def test_layers_of_stages_are_said_in_few_words() -> None:
    assert sizes_text([7, *[8] * 14, 7]) == "7 + 14 x 8 + 7"
    assert unequal_text(*laid_out(4, 2)) == unequal_text(*laid_out(4, 1)) == ""
    assert unequal_text(*laid_out(4, 2, pipeline_layers=[1, 3])) == "1 + 3"
    assert unequal_text(*laid_out(4, 2, pipeline_layers=[2, 2])) == ""
    assert chunk_sizes(*laid_out(8, 2, 2, num_layers_in_last_pipeline_stage=2)) == [3, 1, 3, 1]
