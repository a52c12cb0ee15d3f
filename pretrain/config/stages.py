"""The decoder layers of every pipeline stage: equal, as the config lists them, or with another first and last stage.

A rank of the pipeline holds a model chunk, or one for each of its virtual stages. Chunks count in the order of the model: virtual
stage 0 of all pipeline ranks, then virtual stage 1, and so on. Whoever needs to know where a layer is asks here.
"""

import heapq
import itertools
from collections.abc import Sequence

from pretrain.config.derive import layer_parameters, padded_vocab_size
from pretrain.config.schema import ModelConfig, ParallelConfig


def num_chunks(parallel: ParallelConfig) -> int:
    """Model chunks of all ranks of the pipeline."""
    return parallel.pipeline_model_parallel_size * parallel.virtual_pipeline_model_parallel_size


def chunk_sizes(model: ModelConfig, parallel: ParallelConfig) -> list[int]:
    """Number of layers of every model chunk, which add up to those of the model, as stage_rules.py checks."""
    if parallel.pipeline_layers is not None:
        return parallel.pipeline_layers
    pipeline, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    ends = {0: parallel.num_layers_in_first_pipeline_stage, pipeline - 1: parallel.num_layers_in_last_pipeline_stage}
    stated = {rank: layers for rank, layers in ends.items() if layers is not None}
    equal = (model.num_layers - sum(stated.values())) // max(1, pipeline - len(stated))
    return [stated.get(rank, equal) // virtual for rank in range(pipeline)] * virtual


def rank_sizes(model: ModelConfig, parallel: ParallelConfig) -> list[int]:
    """Number of layers of every pipeline rank, in all of its model chunks."""
    sizes, pipeline = chunk_sizes(model, parallel), parallel.pipeline_model_parallel_size
    return [sum(sizes[rank::pipeline]) for rank in range(pipeline)]


def balanced_sizes(model: ModelConfig, chunks: int) -> list[int]:
    """Layers for every model chunk, at least one, so that the heaviest is as light as it can be; of equal ones the first has more.

    The first chunk has the embedding beside its layers and the last one the output layer. Each weighs as many layers as have its
    parameters.
    """
    ends = padded_vocab_size(model) * model.hidden_size / layer_parameters(model)
    sizes = [1] * chunks
    lightest = [(1 + ends * ((chunk == 0) + (chunk == chunks - 1)), chunk) for chunk in range(chunks)]
    heapq.heapify(lightest)
    for _ in range(model.num_layers - chunks):
        weight, chunk = lightest[0]
        heapq.heapreplace(lightest, (weight + 1, chunk))
        sizes[chunk] += 1
    return sizes


def sizes_text(sizes: Sequence[int]) -> str:
    """Layers of stages for people, such as ``7 + 14 x 8 + 7``: one stage of 7 layers, 14 of 8, and one of 7."""
    runs = [(len([*same]), size) for size, same in itertools.groupby(sizes)]
    return " + ".join(f"{count} x {size}" if count > 1 else f"{size}" for count, size in runs)


def unequal_text(model: ModelConfig, parallel: ParallelConfig) -> str:
    """Layers of the stages of a pipeline in which they differ, for people; empty where every stage has as many."""
    sizes = chunk_sizes(model, parallel)
    return sizes_text(sizes) if len(set(sizes)) > 1 else ""
