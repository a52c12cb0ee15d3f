"""Whatever fields a model states together: the rules refuse it by name, or a step of it is finite, its gradients too."""

import dataclasses
import random
from typing import Any

import pytest
import torch

from fanal.errors import UserError
from pretrain.config.rules import check
from pretrain.config.schema import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
)
from pretrain.model.gpt import build_model
from pretrain.model.loss import masked_loss
from pretrain.parallel.world import World

MODEL = ModelConfig(
    num_layers=3, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, vocab_size=130
)
VALUES: dict[str, tuple[Any, ...]] = {
    "kv_channels": (None, 2, 44),
    "activation": ("swiglu", "geglu", "squared_relu", "xielu"),
    "embedding_scale": ("none", "sqrt_hidden_size"),
    "rotary_base": (1.0, 2.0, 1e4, 5e5),
    "local_rotary_base": (None, 1.0, 5e3),
    "rotary_percent": (1.0, 0.5, 0.25),
    "rotary_scaling": ("none", "linear", "llama3", "yarn"),
    "rotary_scaling_factor": (1.0, 8.0, 1e6),
    "rotary_scaling_original_length": (None, 1, 64, 8192, 2**31 - 1),
    "rotary_scaling_beta_fast": (32.0, 1e6),
    "rotary_scaling_beta_slow": (1.0, 1e-30),
    "rotary_scaling_attention_factor": (None, 1e-6, 1.0, 1e6),
    "no_rope_layer_interval": (None, 1, 2),
    "sliding_window": (None, 1, 3, 100),
    "full_attention_layer_interval": (None, 2, 3),
    "add_qkv_bias": (False, True),
    "query_pre_attention_scalar": (None, 1e-6, 3.0, 1e30),
    "attention_logit_softcap": (None, 1e-6, 50.0, 1e30),
    "final_logit_softcap": (None, 1e-6, 30.0, 1e30),
    "qk_layernorm": (False, True),
    "qk_layernorm_scope": ("head", "full"),
    "normalization": ("RMSNorm", "LayerNorm"),
    "layernorm_zero_centered_gamma": (False, True),
    "norm_placement": ("before", "after", "both"),
    "share_embeddings_and_output_weights": (False, True),
    "attention_backend": ("auto", "sdpa", "reference"),
}
"""Values at both ends of what the rules take, and usual ones."""
LENGTH, DRAWS = 8, 250


@pytest.mark.parametrize("seed", range(4))
def test_what_the_rules_take_trains(seed: int, world: World) -> None:
    draw = random.Random(seed)
    taken = [run for run in (_run(draw) for _ in range(DRAWS)) if _is_taken(run)]
    assert len(taken) > DRAWS / 10
    for run in taken:
        loss, gradients = _step(run, world)
        assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients), run


def _run(draw: random.Random) -> RunConfig:
    names = draw.sample(list(VALUES), k=draw.randint(3, 14))
    return RunConfig(
        run_dir="r",
        model=dataclasses.replace(MODEL, **{name: draw.choice(VALUES[name]) for name in names}),
        data=DataConfig(tokenizer="t", seq_length=LENGTH, train=[SourceConfig(prefix="a")]),
        parallel=ParallelConfig(device="cpu", use_distributed_optimizer=False),
        optim=OptimConfig(lr=0.1),
        train=TrainConfig(
            train_steps=1,
            global_batch_size=1,
            micro_batch_size=1,
            precision=draw.choice(("fp32", "bf16")),
            recompute=draw.choice(("none", "selective", "full")),
            z_loss_weight=draw.choice((0.0, 1e-4, 1.0)),
        ),
    )


def _is_taken(run: RunConfig) -> bool:
    try:
        check(run)
    except UserError:
        return False
    return True


def _step(run: RunConfig, world: World) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of one sample, and the gradients of all parameters."""
    (replica,) = build_model(run, world)
    tokens = torch.arange(LENGTH + 1)[None] * 7 % MODEL.vocab_size
    positions, domains = torch.arange(LENGTH)[None], torch.zeros(1, dtype=torch.int64)
    figures = replica(tokens[:, :-1], positions, None, labels=tokens[:, 1:])
    loss, _, _ = masked_loss(torch.ones(1, LENGTH), domains, 1, run.train.z_loss_weight, figures)
    loss.backward()
    return loss, [parameter.main_grad for parameter in replica.parameters()]  # type: ignore[attr-defined]
