"""megatron-core as it comes: its local layer spec, its attention, loss, data-parallel wrapper, optimizer and step.

It has no CPU of its own: it runs inside Fanal's ``prepare_device``. Its fusions are off, as without Transformer Engine and Apex.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig

from bench.step.task import BETAS, CLIP, EPSILON, LEARNING_RATE, WEIGHT_DECAY, Figures, Precision, Shape, Weights


class MegatronCore:
    """GPTModel, DistributedDataParallel, DistributedOptimizer. Must be made and used inside ``one_rank``."""

    def __init__(self, shape: Shape, precision: Precision, weights: Weights) -> None:
        self.shape = shape
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        config = _transformer_config(shape, dtype)
        model = GPTModel(
            config=config,
            transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
            vocab_size=shape.vocab_size,
            max_sequence_length=shape.seq_length,
            position_embedding_type="rope",
            rotary_base=int(shape.rotary_base),
        ).to(dtype)
        parameters = dict(model.named_parameters())
        assert parameters.keys() == weights.keys(), f"names differ: {sorted(parameters.keys() ^ weights.keys())}"
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        self.model = DistributedDataParallel(
            config, DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True), model
        )
        config.finalize_model_grads_func = finalize_model_grads
        optim = OptimizerConfig(
            optimizer="adam",
            lr=LEARNING_RATE,
            min_lr=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            adam_eps=EPSILON,
            clip_grad=CLIP,
            bf16=dtype is torch.bfloat16,
            params_dtype=dtype,
            use_distributed_optimizer=True,
        )
        self.optimizer = get_megatron_optimizer(optim, [self.model], use_gloo_process_groups=False)
        groups: Any = self.optimizer.param_groups
        for group in groups:
            group["weight_decay"] = WEIGHT_DECAY * group["wd_mult"]  # as megatron's own scheduler does
        config.grad_scale_func = self.optimizer.scale_loss
        self.positions = torch.arange(shape.seq_length).expand(shape.batch_size, -1)
        # True where hidden. Made once, since megatron would make it in every layer, on a GPU.
        self.mask = torch.ones(1, 1, shape.seq_length, shape.seq_length).triu(1).bool()

    def step(self, rows: torch.Tensor) -> Figures:
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        reports = get_forward_backward_func()(
            forward_step_func=self._forward,
            data_iterator=iter([rows]),
            model=self.model,
            num_microbatches=1,
            seq_length=self.shape.seq_length,
            micro_batch_size=self.shape.batch_size,
            forward_only=False,
        )
        stepped: Any = self.optimizer.step()
        _, grad_norm, _ = stepped
        return Figures(float(reports[0]), float(grad_norm))

    def _forward(self, data: Iterator[torch.Tensor], model: Any) -> tuple[torch.Tensor, Any]:
        rows = next(data)
        losses = model(rows[:, :-1], self.positions, self.mask, labels=rows[:, 1:])
        return losses, _mean


def _mean(losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = losses.float().mean()
    return mean, mean.detach()


def _transformer_config(shape: Shape, dtype: torch.dtype) -> TransformerConfig:
    return TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_heads,
        num_query_groups=shape.num_groups,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
        apply_rope_fusion=False,
    )
