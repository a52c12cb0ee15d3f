"""Runs whose ranks share each sequence, as data: layouts, what is trained in them, and the faults that break parity."""

from dataclasses import dataclass
from typing import Literal

from tests.runs.cases import (
    DP2,
    FAMILY_RUNS,
    FULL_RECOMPUTE,
    NO_DISTRIBUTED_OPTIMIZER,
    ONE_AND_THREE,
    OVERLAP,
    PP2,
    SP,
    TIED,
    TP2,
    VP2,
    WINDOWS,
)
from tests.unit.data.objective_runs import END_OF_DOCUMENT, FILL_IN_THE_MIDDLE, GOLDFISH

CP2 = ("parallel.context_parallel_size=2",)
CP4 = ("parallel.context_parallel_size=4",)
SELECTIVE_RECOMPUTE = ("train.recompute=selective",)
PARTS_RECOMPUTED = (*SELECTIVE_RECOMPUTE, "train.recompute_modules=[core_attn,layernorm,activation]")

ATTENTIVE = ("model.init_method_std=0.1",)
"""Weights with which the first steps depend on attention: with smaller ones every position sees nearly the mean of all."""

ONE_RANK = "one rank"
CONTEXT_LAYOUTS = {
    "cp2": CP2,
    "cp4": CP4,
    "cp2-tp2-sp": (*CP2, *TP2, *SP),
    "cp2-pp2": (*CP2, *PP2),
    "cp2-pp2-vp2": (*CP2, *PP2, *VP2),
    "cp2-dp2-overlap": (*CP2, *DP2, *OVERLAP),
    "cp2-dp2-replicated-optimizer": (*CP2, *DP2, *NO_DISTRIBUTED_OPTIMIZER),
    "cp2-tp2-pp2": (*CP2, *TP2, *PP2),
}
UNEQUAL_LAYOUTS = {"cp2-pp2-unequal": (*CP2, *PP2, *ONE_AND_THREE)}


@dataclass(frozen=True)
class Kind:
    """What is trained, and on which shards."""

    overrides: tuple[str, ...] = ()
    shards: Literal["small", "short documents", "documents between marks"] = "small"
    """Those of the small run; documents of 1 to 24 tokens, one in four with padding; documents of 1 to 60 tokens."""


IN_EVERY_LAYOUT = {
    "rows": Kind(ATTENTIVE),
    "documents": Kind(("train.z_loss_weight=0.01",), "short documents"),
    "windows, full recomputation": Kind((*WINDOWS, *FULL_RECOMPUTE)),
    "windows and caps, documents, selective recomputation": Kind(
        (*FAMILY_RUNS["gemma2"].overrides, *SELECTIVE_RECOMPUTE), "short documents"
    ),
}
"""Losses by domain are compared in all of them: two domains are trained on."""
IN_CP2 = {
    "tied": Kind(TIED),
    "objectives": Kind(
        (FILL_IN_THE_MIDDLE, GOLDFISH, END_OF_DOCUMENT, "data.document_mask=true", "train.z_loss_weight=0.01"),
        "documents between marks",
    ),
    "loss in chunks": Kind(("train.loss_chunk_tokens=50", "train.z_loss_weight=0.01"), "short documents"),
    "average of the weights": Kind(("optim.ema_decay=0.9", "train.validate_ema=true")),
    "muon": Kind(("optim.name=muon", "optim.lr=5.0e-4", "optim.min_lr=5.0e-5")),
    "one row at a time": Kind(("train.micro_batch_size=1",), "short documents"),
    "windows in every layer": Kind(("model.sliding_window=16",), "short documents"),
    "full recomputation": Kind(FULL_RECOMPUTE, "short documents"),
    "selective recomputation": Kind(SELECTIVE_RECOMPUTE),
    "one group of queries": Kind(("model.num_query_groups=1",)),
    "packed documents": Kind(("data.packing=best_fit", "data.document_mask=true"), "documents between marks"),
    "parts of layers recomputed": Kind((*PARTS_RECOMPUTED, "data.document_mask=true")),
    "the definition of attention": Kind(("model.attention_backend=reference",), "short documents"),
}
"""What no layout changes, in one layout."""
FAMILIES = {name: Kind(family.overrides) for name, family in FAMILY_RUNS.items()}
KINDS = {**IN_EVERY_LAYOUT, **IN_CP2, **FAMILIES}

CASES = [
    *((layout, kind) for layout in CONTEXT_LAYOUTS for kind in IN_EVERY_LAYOUT),
    *(("cp2", kind) for kind in IN_CP2),
    *(("cp2-tp2-sp", kind) for kind in ("tied", "loss in chunks")),
    ("cp2-tp2-sp", "one group of queries"),
    ("cp2-dp2-replicated-optimizer", "muon"),
    *(("cp2-pp2-unequal", kind) for kind in ("rows", "parts of layers recomputed")),
    *(("cp2-pp2-vp2", kind) for kind in ("tied", "full recomputation")),
]
"""What ``make test`` trains."""
ALL_CASES = [(layout, kind) for layout in CONTEXT_LAYOUTS for kind in KINDS]
"""The whole product, which ``make contexts`` trains."""

FAULTS = {
    "chunks_swapped": ("cp2", "rows"),
    "keys_in_the_order_of_ranks": ("cp2", "rows"),
    "keys_end_one_short": ("cp2", "rows"),
    "documents_of_a_part_begin_one_late": ("cp2", "documents"),
    "key_gradients_not_reduced": ("cp2", "rows"),
    "value_gradients_of_one_chunk_left_out": ("cp2", "rows"),
    "loss_counted_by_every_context_rank": ("cp2-pp2", "rows"),
    "angles_of_other_chunks": ("cp2", "rows"),
    "tokens_not_summed_over_context_ranks": ("cp2-pp2", "documents"),
    "window_measured_from_the_chunk": ("cp2", "windows, full recomputation"),
    "context_ranks_read_samples_of_their_own": ("cp2", "rows"),
    "gradients_not_summed_over_context_ranks": ("cp2", "rows"),
}
"""Functions of tests/dist/context_faults.py, and the runs in which each must break parity."""
