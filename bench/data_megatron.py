"""Megatron-core's datasets over our shards.

Its index builder is C++: ``megatron.core.datasets.helpers_cpp``, compiled at first use by ``compile_helpers`` (make and
g++, with python3-config or pybind11's headers on the path). The wheels of 0.16.1 for Linux bring it compiled.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split, compile_helpers

from bench.data_corpus import VOCAB_SIZE


class NoTokenizer:
    """Stand-in for the tokenizer that GPTDatasetConfig needs."""

    vocab_size = VOCAB_SIZE
    eod = 1
    pad = -1  # occurs in no shard
    unique_identifiers: dict[str, str] = {}  # noqa: RUF012


def prepare() -> None:
    """Have the helpers, and one rank: BlendedDataset asks for its number."""
    if importlib.util.find_spec("megatron.core.datasets.helpers_cpp") is None:
        compile_helpers()
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def gpt_config(seq_length: int, cache: Path) -> GPTDatasetConfig:
    """Return the config of pretraining: no attention mask, nothing reset at the end of a document."""
    return GPTDatasetConfig(
        random_seed=42,
        sequence_length=seq_length,
        blend=None,
        blend_per_split=[(["unused"], None), None, None],
        path_to_cache=str(cache),
        tokenizer=NoTokenizer(),  # type: ignore[arg-type]
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        mid_level_dataset_surplus=0.005,
    )


def gpt_dataset(prefix: Path, num_samples: int, config: GPTDatasetConfig) -> GPTDataset:
    """GPTDataset of at least so many samples over a whole shard."""
    low = GPTDataset.build_low_level_dataset(str(prefix), config)
    documents = np.arange(GPTDataset.numel_low_level_dataset(low), dtype=np.int32)
    return GPTDataset(low, str(prefix), documents, num_samples, Split.train, config)


def blended(prefixes: list[Path], weights: list[float], num_samples: int, config: GPTDatasetConfig) -> BlendedDataset:
    """BlendedDataset over GPTDatasets, each with the surplus that the builder adds."""
    total = sum(weights)
    sizes = [int(np.ceil(np.ceil(num_samples * weight / total) * 1.005)) for weight in weights]
    datasets = [gpt_dataset(prefix, size, config) for prefix, size in zip(prefixes, sizes, strict=True)]
    return BlendedDataset(datasets, weights, num_samples, config)  # type: ignore[arg-type]


def read_spans(dataset: GPTDataset, starts: np.ndarray, document_offsets: np.ndarray, seq_length: int) -> None:
    """Give a GPTDataset other indices: its sample i becomes the seq_length + 1 tokens from ``starts[i]`` on.

    Its code stays as it is. Two rows of the sample index per sample: where it begins, and where the next one would.
    """
    edges = np.stack([starts, starts + seq_length], axis=1).ravel()
    documents = np.searchsorted(document_offsets, edges, side="right") - 1
    dataset.document_index = np.arange(len(document_offsets) - 1, dtype=np.int32)
    dataset.sample_index = np.stack([documents, edges - document_offsets[documents]], axis=1).astype(np.int32)
    dataset.shuffle_index = (2 * np.arange(len(starts))).astype(np.uint32)


def differs(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not equal."""
    return [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
