"""Fanal's step: what a run trains with, from a configuration to the update."""

import contextlib
from collections.abc import Iterator

import torch

from bench.step.task import BETAS, CLIP, EPSILON, LEARNING_RATE, WEIGHT_DECAY, Figures, Precision, Shape, Weights
from pretrain.config.schema import DataConfig, ModelConfig, OptimConfig, ParallelConfig, RunConfig, TrainConfig
from pretrain.data.batch import micro_batch
from pretrain.model.gpt import build_model, unwrap
from pretrain.model.initialize import global_named_parameters
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.parallel.world import World, open_lone_world
from pretrain.state import TrainState
from pretrain.train.step import train_step

NO_PADDING = -1


@contextlib.contextmanager
def one_rank() -> Iterator[World]:
    """Open the world of this process alone, on its CPU; megatron-core as it is runs in it too."""
    with open_lone_world():
        yield World(
            rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
            tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
        )  # fmt: skip


def run_config(
    shape: Shape, precision: Precision, *, parallel: ParallelConfig | None = None, global_batch_size: int | None = None
) -> RunConfig:
    """Return the configuration of a run that trains the task."""
    return RunConfig(
        run_dir="runs/none",
        model=ModelConfig(
            num_layers=shape.num_layers,
            hidden_size=shape.hidden_size,
            ffn_hidden_size=shape.ffn_hidden_size,
            num_attention_heads=shape.num_heads,
            num_query_groups=shape.num_groups,
            vocab_size=shape.vocab_size,
            rotary_base=shape.rotary_base,
            layernorm_epsilon=shape.norm_epsilon,
        ),
        data=DataConfig(tokenizer="none", seq_length=shape.seq_length),
        parallel=parallel or ParallelConfig(device="cpu"),
        optim=OptimConfig(
            lr=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            adam_eps=EPSILON,
            clip_grad=CLIP,
        ),
        train=TrainConfig(
            train_steps=1,
            global_batch_size=global_batch_size or shape.batch_size,
            micro_batch_size=shape.batch_size,
            precision=precision,
        ),
    )


class Fanal:
    """The product's own model, optimizer and step."""

    def __init__(self, shape: Shape, precision: Precision, world: World) -> None:
        device = "cuda" if world.device.type == "cuda" else "cpu"
        self.run, self.world = run_config(shape, precision, parallel=ParallelConfig(device=device)), world
        self.model = build_model(self.run, world)
        self.optimizer = build_optimizer(self.run, self.model)
        set_learning_rate(self.optimizer, LEARNING_RATE)

    def weights(self) -> Weights:
        """Return a copy of the weights as they are now, in bf16 rounded as the model's are."""
        (chunk,) = unwrap(self.model)
        return {name: weight.detach().float().clone() for name, weight in global_named_parameters(chunk)}

    def step(self, rows: torch.Tensor) -> Figures:
        batch = micro_batch(
            rows, self.world.device, seq_length=self.run.data.seq_length, pad_id=NO_PADDING, has_padding=False
        )
        result = train_step(
            self.model,
            self.optimizer,
            iter([batch]),
            self.run,
            self.world,
            state=TrainState(),
            global_batch_size=len(rows),
            domains=("text",),
        )
        assert result.skipped is None, f"the step was skipped: {result.skipped}"
        return Figures(result.loss, result.grad_norm)
