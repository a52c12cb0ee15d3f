"""The least memory that training takes, from the config alone. Pure arithmetic; no torch.

A lower bound: what is counted here is certainly there, so that no run is refused which would fit. Temporary buffers, the copy
for a checkpoint, and most activations are left out.
"""

from pretrain.config.derive import (
    loss_chunk_tokens,
    model_parallel_size,
    offloaded_layers,
    padded_vocab_size,
    tokens_per_pass,
)
from pretrain.config.schema import RunConfig
from pretrain.config.stages import chunk_sizes
from pretrain.config.steps import train_samples
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.registry import num_states

PROCESS_BYTES = 64 << 20
"""Memory of a rank's process beside its tensors: Python's objects and what the libraries keep. Measured: 150 MB and more."""
WEIGHT_BYTES = {"bf16": 2, "fp32": 4}
TOKEN_BYTES = 8


ON_THE_HOST = frozenset({"data.prefetch_bytes", "processes", "train.offload_activations"})
"""The parts that lie in the host's memory where the model lies on GPUs."""


def least_bytes(run: RunConfig, *, num_ranks: int) -> dict[str, int]:
    """Return what all ranks together hold at least, in bytes, by what it is.

    Args: num_ranks: whole replicas of the layout.
    """
    parallel, train, seq_length = run.parallel, run.train, run.data.seq_length
    replicas = max(1, num_ranks // model_parallel_size(parallel))
    copies = replicas * parallel.context_parallel_size
    parameters = checkpoint_bytes(run.model, num_states=1) // 4
    itemsize = WEIGHT_BYTES[train.precision]
    masters = parameters * 4 if train.precision == "fp32" else 0  # which are the weights themselves
    kept = checkpoint_bytes(run.model, num_states=num_states(run.optim)) - masters
    passed = tokens_per_pass(run)
    chunk = loss_chunk_tokens(train, tokens=passed) or passed
    layer_bytes = copies * passed * run.model.hidden_size * itemsize
    sizes = chunk_sizes(run.model, parallel)
    offloaded = sum(len(offloaded_layers(train, chunk=chunk, sizes=sizes)) for chunk in range(len(sizes)))
    samples = -(-train_samples(run.optim, train) // replicas)  # of a replica in the whole run
    read = samples * (seq_length + 1) * TOKEN_BYTES
    return {
        "weights": copies * parameters * itemsize,
        "gradients": copies * parameters * 4,
        "optimizer": (1 if parallel.use_distributed_optimizer else copies) * kept,
        "activations": (run.model.num_layers - offloaded) * layer_bytes,
        "train.offload_activations": offloaded * layer_bytes,
        "logits": copies * min(passed, chunk) * padded_vocab_size(run.model) * itemsize,
        "data.prefetch_bytes": replicas * min(run.data.prefetch_bytes, read),
        "processes": num_ranks * PROCESS_BYTES,
    }
