"""What a run asks of CUDA's libraries through the environment: each reads its variable once, at its first use.

A job's script exports them; a run that was started otherwise sets them before it first asks for a GPU.
"""

from pretrain.config.schema import RunConfig


def library_variables(run: RunConfig) -> dict[str, tuple[str, str]]:
    """Return the value and the reason of each variable that this run needs; a value that is there already stays."""
    found = {}
    sizes = {"tensor": run.parallel.tensor_model_parallel_size, "context": run.parallel.context_parallel_size}
    if relies := [name for name, size in sizes.items() if size > 1]:
        # There alone: one hardware queue keeps others from running side by side what could.
        reason = (
            f"kernels start in the order of their launch, which {' and '.join(relies)} parallelism's overlap relies on"
        )
        found["CUDA_DEVICE_MAX_CONNECTIONS"] = ("1", reason)
    if run.train.deterministic:
        # With a workspace of a fixed size cuBLAS does not choose by what is free; NVLS adds up in the switch, as parts arrive.
        found["CUBLAS_WORKSPACE_CONFIG"] = (":4096:8", "train.deterministic: matrix products add up in one order")
        found["NCCL_ALGO"] = ("^NVLS", "train.deterministic: collectives add up in one order")
    return found
