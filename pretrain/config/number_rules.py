"""Rules of single numbers: finite, above 0 where they count or divide something, and of a size that a machine can have.

They come before all other rules: those loop over sizes, and what follows from a size is made of it.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from fanal.errors import UserError
from fanal.shown import shown
from pretrain.config.schema import ModelConfig, RunConfig

LARGEST_INTEGER = 2**63 - 1
LARGEST_SAMPLE = 2**62
"""Sample numbers are 64-bit integers."""
LONGEST_S = 1_000_000_000
"""Seconds, thirty years: clocks and the timeouts of libraries take no much longer ones."""

POSITIVE = {
    "model": ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "vocab_size",
              "kv_channels", "make_vocab_size_divisible_by", "layernorm_epsilon", "init_method_std",
              "no_rope_layer_interval", "rotary_scaling_low_freq_factor", "rotary_scaling_high_freq_factor",
              "rotary_scaling_beta_fast", "rotary_scaling_beta_slow", "rotary_scaling_attention_factor",
              "sliding_window", "full_attention_layer_interval", "query_pre_attention_scalar", "attention_logit_softcap",
              "final_logit_softcap"),
    "data": ("seq_length",),
    "parallel": ("tensor_model_parallel_size", "pipeline_model_parallel_size",
                 "virtual_pipeline_model_parallel_size", "num_layers_in_first_pipeline_stage",
                 "num_layers_in_last_pipeline_stage", "context_parallel_size", "data_parallel_size", "timeout_s"),
    "optim": ("lr", "lr_decay_samples", "adam_eps", "muon_num_ns_steps"),
    "train": ("train_steps", "global_batch_size", "micro_batch_size", "validation_interval", "validation_samples",
              "recompute_num_layers"),
    "checkpoint": ("interval", "keep_last", "keep_every_steps", "phase_timeout_s"),
    "log": ("interval", "max_domains", "peak_tflops_per_gpu", "profile_from_step", "profile_steps",
            "stability_interval"),
}  # fmt: skip
NOT_NEGATIVE = {
    "optim": ("min_lr", "lr_warmup_samples", "weight_decay", "clip_grad", "ademamix_alpha",
              "ademamix_beta3_warmup_steps", "ademamix_alpha_warmup_steps"),
    "train": ("max_skipped_steps", "z_loss_weight", "loss_chunk_tokens"),
    "checkpoint": ("max_failed_saves",),
    "log": ("profile_rank",),
}  # fmt: skip
LARGEST = {
    "model": {"num_layers": 10_000, "hidden_size": 2**20, "ffn_hidden_size": 2**24, "num_attention_heads": 2**16,
              "num_query_groups": 2**16, "kv_channels": 2**16, "vocab_size": 2**31 - 1,
              "make_vocab_size_divisible_by": 2**20, "no_rope_layer_interval": 10_000,
              "full_attention_layer_interval": 10_000, "sliding_window": 2**31 - 1},
    "data": {"seq_length": 2**31 - 1},
    "parallel": {"tensor_model_parallel_size": 2**16, "pipeline_model_parallel_size": 2**16,
                 "virtual_pipeline_model_parallel_size": 2**16, "num_layers_in_first_pipeline_stage": 10_000,
                 "num_layers_in_last_pipeline_stage": 10_000, "context_parallel_size": 2**16,
                 "data_parallel_size": 2**20, "timeout_s": LONGEST_S},
    "optim": {"lr_warmup_samples": LARGEST_SAMPLE, "lr_decay_samples": LARGEST_SAMPLE,
              "ademamix_beta3_warmup_steps": 2**40, "ademamix_alpha_warmup_steps": 2**40, "muon_num_ns_steps": 100},
    "train": {"train_steps": LARGEST_SAMPLE, "global_batch_size": 2**31 - 1, "micro_batch_size": 2**31 - 1,
              "validation_samples": LARGEST_SAMPLE, "walltime_s": LONGEST_S, "walltime_margin_s": LONGEST_S,
              "z_loss_weight": 1, "loss_chunk_tokens": 2**31 - 1, "recompute_num_layers": 10_000},
    "checkpoint": {"phase_timeout_s": LONGEST_S},
    "log": {"max_domains": 10_000, "profile_from_step": 2**40, "profile_steps": 100,
            "stability_interval": 2**40},
}  # fmt: skip
"""Far above what anyone trains (the deepest transformers have a thousand layers), and low enough that what follows from any of
these is worked out at once and stays a 64-bit number."""
LARGEST_FACTOR = 1e30
FACTORS = {
    "model": ("layernorm_epsilon", "init_method_std", "query_pre_attention_scalar", "attention_logit_softcap",
              "final_logit_softcap"),
    "optim": ("lr", "min_lr", "weight_decay", "adam_eps", "ademamix_alpha"),
}  # fmt: skip
"""Numbers that weights are multiplied with or drawn by: at most LARGEST_FACTOR, since single precision ends at 3e38."""
SMALL = {float: (1e-5, 1e-3), int: (1, *(2**power for power in range(1, 17)))}
"""Values to recommend where the default is none."""


def check_numbers(run: RunConfig, passes: Callable[[RunConfig], bool]) -> None:
    """Refuse numbers that no run has.

    Args: passes: whether all rules hold for a run, for the value that a message recommends.
    Raises: UserError naming the first one.
    """
    _check_finite(run)
    _check_signs(run, passes)
    _check_largest(run, passes)
    _check_integers(run)


def size_problem(model: ModelConfig) -> str | None:
    """Return what is wrong with the size of a model that no config of a run describes; None if nothing is."""
    for name, largest in LARGEST["model"].items():
        value = getattr(model, name)
        if value is not None and not 0 < value <= largest:
            return f"{name} ({shown(value)}) must be from 1 to {largest:,}"
    return None


def values_of(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value of a configuration or a part of it, by its whole key."""
    if isinstance(tree, list):
        for number, item in enumerate(tree):
            yield from values_of(item, f"{name}[{number}]")
        return
    if not is_dataclass(tree):
        yield name, tree
        return
    for field in fields(tree):
        yield from values_of(getattr(tree, field.name), f"{name}.{field.name}" if name else field.name)


def _check_integers(run: RunConfig) -> None:
    """Seeds may be negative, as torch's may. The larger bounds of sizes are those of LARGEST."""
    for name, value in values_of(run):
        if isinstance(value, int) and not -LARGEST_INTEGER - 1 <= value <= LARGEST_INTEGER:
            works = "42" if name.endswith("seed") else "1000"
            if name.endswith("]"):
                works = f"{name.partition('[')[0]}=null"
            raise UserError(
                f"{name} ({digits(value)}) must be a 64-bit integer, at most {LARGEST_INTEGER}; {works} works"
            )


def digits(value: int) -> str:
    """An integer as a message shows it: Python writes no more than 4,300 digits, and nobody reads 100."""
    return str(value) if value.bit_length() < 200 else f"an integer of {value.bit_length():,} bits"


def _number(value: float) -> str:
    return digits(value) if isinstance(value, int) else f"{value}"


def _check_finite(run: RunConfig) -> None:
    """nan passes every comparison that would refuse it, and inf some of them."""
    for room in ("model", "optim", "train", "checkpoint", "log"):
        section = getattr(run, room)
        for field in fields(section):
            value = getattr(section, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                default = field.default if isinstance(field.default, float) else 1e-3
                works = "null" if field.default is None else f"{default}"
                raise UserError(f"{room}.{field.name} ({value}) must be a finite number; {works} works")


def _check_signs(run: RunConfig, passes: Callable[[RunConfig], bool]) -> None:
    for room, names in POSITIVE.items():
        for name in names:
            value = getattr(getattr(run, room), name)
            if value is not None and not value > 0:
                works = _works(run, room, name, passes, SMALL[type(value)])
                small = "a small number such as " if isinstance(value, float) and works == "1e-05" else ""
                raise UserError(
                    f"{room}.{name} ({_number(value)}) must be above 0 and finite; {small}{_brief(works)} works"
                )
    for room, names in NOT_NEGATIVE.items():
        for name in names:
            value = getattr(getattr(run, room), name)
            if value is not None and not value >= 0:
                raise UserError(f"{room}.{name} ({_number(value)}) must be finite and not negative; 0 works")
    for name in (field.name for field in fields(run.optim) if re.search(r"_beta\d$|_momentum$", field.name)):
        if not 0 <= getattr(run.optim, name) < 1:
            raise UserError(f"optim.{name} ({getattr(run.optim, name)}) must be at least 0 and below 1; 0.95 works")
    decay = run.optim.ema_decay
    if decay is not None and not 0 < decay < 1:
        raise UserError(
            f"optim.ema_decay ({decay}) must be above 0 and below 1; 0.999 works, or null, which keeps no average"
        )
    for name in ("rotary_base", "local_rotary_base"):
        base = getattr(run.model, name)
        if base is not None and not base >= 1:
            works = _works(run, "model", name, passes, (10_000.0,))
            raise UserError(
                f"model.{name} ({base}) must be at least 1, since the wavelengths of positions are its powers; {works} works"
            )


def _check_largest(run: RunConfig, passes: Callable[[RunConfig], bool]) -> None:
    for room, sizes in LARGEST.items():
        for name, largest in sizes.items():
            value = getattr(getattr(run, room), name)
            if value is None or value <= largest:
                continue
            candidates = [largest, *(largest - largest % step for step in _divisors(run)), *reversed(SMALL[int])]
            works = _works(run, room, name, passes, candidates)
            raise UserError(f"{room}.{name} ({_number(value)}) must be at most {largest:,}; {works} works")
    for room, names in FACTORS.items():
        for name in names:
            value = getattr(getattr(run, room), name)
            if value is not None and value > LARGEST_FACTOR:
                works = _brief(_works(run, room, name, passes, SMALL[float]))
                raise UserError(f"{room}.{name} ({value:g}) must be at most {LARGEST_FACTOR:g}; {works} works")
    for name, value in values_of(run.train.watchdog, "train.watchdog"):
        if value is not None and value > LONGEST_S:
            raise UserError(f"{name} ({value}) must be at most {LONGEST_S:,} seconds; null works, for no limit")


def _divisors(run: RunConfig) -> list[int]:
    """What a size may have to be a multiple of."""
    model, parallel = run.model, run.parallel
    stages = parallel.pipeline_model_parallel_size * parallel.virtual_pipeline_model_parallel_size
    found = (model.num_attention_heads, 2 * model.num_attention_heads, stages, parallel.tensor_model_parallel_size,
             run.train.micro_batch_size * (parallel.data_parallel_size or 1))  # fmt: skip
    return [number for number in found if number > 0]


def _works(run: RunConfig, room: str, name: str, passes: Callable[[RunConfig], bool], candidates: Any) -> str:
    """A value with which the whole run passes: the default, null among them, or the first of the candidates; the first where none
    does, since something else is wrong as well."""
    section = getattr(run, room)
    default = next(field.default for field in fields(section) if field.name == name)
    tried = [*candidates] if default == "???" else [default, *candidates]
    found = (value for value in tried if passes(replace(run, **{room: replace(section, **{name: value})})))
    works = next(found, tried[0])
    return "null" if works is None else str(works)


def _brief(number: str) -> str:
    """1e-05 as people write it."""
    return number.replace("e-0", "e-")
