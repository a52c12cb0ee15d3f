"""Hugging Face's LlamaForCausalLM, trained as its Trainer does: in bf16 under autocast, with weights in fp32."""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from bench.step.task import CLIP, Figures, Precision, Shape, Weights, fused_adamw, queries_keys_values

CPU = torch.device("cpu")


class HuggingFace:
    """LlamaForCausalLM with PyTorch's attention kernel and fused AdamW."""

    def __init__(
        self, shape: Shape, precision: Precision, weights: Weights | None, *, device: torch.device = CPU
    ) -> None:
        """Args: weights, initial ones; None for Hugging Face's own."""
        config = LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.ffn_hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_groups,
            max_position_embeddings=shape.seq_length,
            rms_norm_eps=shape.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rotary_base},
            tie_word_embeddings=False,
            use_cache=False,
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        )
        with device:  # made where it stays
            self.model = LlamaForCausalLM(config).train()
        if weights is not None:
            self.model.load_state_dict(_their_weights(weights, shape))
        self.device = device
        self.autocast = precision == "bf16"
        self.optimizer = fused_adamw(list(self.model.parameters()))

    def step(self, rows: torch.Tensor) -> Figures:
        self.optimizer.zero_grad(set_to_none=True)
        rows = rows.to(self.device)
        labels = rows[:, 1:].contiguous()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.model(input_ids=rows[:, :-1], labels=labels, shift_labels=labels).loss
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return Figures(float(loss.detach()), float(grad_norm))


def _their_weights(weights: Weights, shape: Shape) -> Weights:
    """Return the weights under the names of transformers."""
    theirs = {
        "model.embed_tokens.weight": weights["embedding.word_embeddings.weight"],
        "model.norm.weight": weights["decoder.final_layernorm.weight"],
        "lm_head.weight": weights["output_layer.weight"],
    }
    for number in range(shape.num_layers):
        layer, ours = f"model.layers.{number}", f"decoder.layers.{number}"
        fused = queries_keys_values(weights[f"{ours}.self_attention.linear_qkv.weight"], shape)
        for name, weight in zip("qkv", fused, strict=True):
            theirs[f"{layer}.self_attn.{name}_proj.weight"] = weight
        gate, up = weights[f"{ours}.mlp.linear_fc1.weight"].chunk(2)
        theirs |= {
            f"{layer}.self_attn.o_proj.weight": weights[f"{ours}.self_attention.linear_proj.weight"],
            f"{layer}.mlp.gate_proj.weight": gate,
            f"{layer}.mlp.up_proj.weight": up,
            f"{layer}.mlp.down_proj.weight": weights[f"{ours}.mlp.linear_fc2.weight"],
            f"{layer}.input_layernorm.weight": weights[f"{ours}.input_layernorm.weight"],
            f"{layer}.post_attention_layernorm.weight": weights[f"{ours}.pre_mlp_layernorm.weight"],
        }
    return theirs
