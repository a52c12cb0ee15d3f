"""What people call a layout: its sizes in words and in letters, for headlines, scripts, errors, names of folders."""

from pretrain.config.schema import ParallelConfig


def layout_in_words(
    parallel: ParallelConfig, *, replicas: int | None = None, with_choices: bool = False, layers: str = ""
) -> str:
    """Return all sizes of a layout, such as TP4 x PP2 x DP8; a size of context parallelism is named where there is one.

    Args:
        replicas: data-parallel ones; None leaves them out.
        with_choices: names sequence parallelism and virtual stages too: TP4 + SP x PP2 (2 stages a rank) x CP2 x DP8.
        layers: those of the stages, where they differ (stages.unequal_text).
    """
    virtual, context = parallel.virtual_pipeline_model_parallel_size, parallel.context_parallel_size
    sequence = " + SP" if with_choices and parallel.sequence_parallel else ""
    stages = [f"{virtual} stages a rank"] * (with_choices and virtual > 1) + [f"layers {layers}"] * bool(layers)
    of_stages = f" ({', '.join(stages)})" if stages else ""
    sizes = [
        f"TP{parallel.tensor_model_parallel_size}{sequence}",
        f"PP{parallel.pipeline_model_parallel_size}{of_stages}",
        *([f"CP{context}"] if context > 1 else []),
        *([] if replicas is None else [f"DP{replicas}"]),
    ]
    return " x ".join(sizes)


def split_axes(parallel: ParallelConfig) -> list[str]:
    """Return the sizes above one, in letters: TP2, PP2, VP2 (virtual stages), CP2, DP2. An open number of replicas is one."""
    sizes = {
        "TP": parallel.tensor_model_parallel_size,
        "PP": parallel.pipeline_model_parallel_size,
        "VP": parallel.virtual_pipeline_model_parallel_size,
        "CP": parallel.context_parallel_size,
        "DP": parallel.data_parallel_size or 1,
    }
    return [f"{letters}{size}" for letters, size in sizes.items() if size > 1]
