"""Planted faults in what is a family's own: each breaks one rank's work, or what ranks do together, the way a real bug would."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pretrain.config.schema import ModelConfig, RunConfig


def is_last_rank() -> bool:
    return int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1


def norms_on_the_heads_not_reduced() -> None:
    """Each tensor-parallel rank updates its copies of norms over heads from the gradients of its own heads alone."""
    _translate(lambda config: setattr(config, "qk_layernorm", False))


def norms_over_the_heads_of_one_rank() -> None:
    """A norm over all heads takes the mean square of its own rank's heads for that of all."""
    from megatron.core import parallel_state

    from pretrain.model import norms

    ranks = parallel_state.get_tensor_model_parallel_world_size
    norms.reduce_from_tensor_model_parallel_region = lambda squares: squares * ranks()


def gradients_through_the_other_ranks_heads_left_out() -> None:
    """A norm over all heads forgets that its mean square is in the outputs of other ranks too."""
    from pretrain.model import norms

    norms.copy_to_tensor_model_parallel_region = lambda squares: squares


def norm_biases_not_reduced() -> None:
    """Biases of norms forget that under sequence parallelism each rank sees a part of the sequence."""
    from pretrain.model.norms import LayerNorm

    build = LayerNorm.__init__

    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.bias.sequence_parallel = False

    LayerNorm.__init__ = broken  # type: ignore[method-assign]


def norms_after_the_parts_not_reduced() -> None:
    """Norms behind attention and feed-forward forget that under sequence parallelism each rank sees a part of the sequence."""
    from pretrain.model import layer_spec

    build = layer_spec._norm_at

    def broken(*args: Any) -> torch.nn.Module:
        norm = build(*args)
        for parameter in norm.parameters():
            parameter.sequence_parallel = False  # type: ignore[attr-defined]
        return norm

    layer_spec._norm_at = broken


def learned_activation_not_reduced() -> None:
    """Each tensor-parallel rank updates its copy of the activation's numbers from its own part of the feed-forward."""
    from pretrain.model import activation

    activation.copy_to_tensor_model_parallel_region = lambda numbers: numbers


def biases_not_trained_on_one_rank() -> None:
    """The biases of the last rank's heads get no gradient."""
    from pretrain.train import loop

    if not is_last_rank():
        return
    build = loop.build_model

    def broken(*args: Any, **kwargs: Any) -> Any:
        model = build(*args, **kwargs)
        for chunk in model:
            for name, parameter in chunk.named_parameters():
                if name.endswith("linear_qkv.bias"):
                    parameter.register_hook(torch.zeros_like)
        return model

    loop.build_model = broken


def rotary_positions_left_out_of_another_layer() -> None:
    """The last rank leaves rotary positions out of the layer after the right one."""
    from pretrain.model import layer_spec

    real = layer_spec.has_rotary_positions
    if is_last_rank():
        layer_spec.has_rotary_positions = lambda model, layer: layer == 0 or real(model, layer - 1)


def rotary_frequencies_not_scaled_on_one_rank() -> None:
    """The last rank turns queries and keys as before their scaling."""
    from pretrain.model import angles

    real = angles.layer_frequencies
    if is_last_rank():
        angles.layer_frequencies = lambda model: real(replace(model, rotary_scaling="none"))


def all_channels_turned_on_one_rank() -> None:
    """The last rank turns whole heads."""
    from pretrain.model import gpt

    class Broken(gpt.LayerAngles):
        def __init__(self, model: ModelConfig) -> None:
            super().__init__(replace(model, rotary_percent=1.0))

    if is_last_rank():
        gpt.LayerAngles = Broken  # type: ignore[misc]


def local_layers_turned_like_the_others() -> None:
    """The last rank's layers with a window turn by the angles of layers without one."""
    from pretrain.model import layer_spec

    if is_last_rank():
        layer_spec.kind_of = lambda model, layer: 0


def attention_factor_left_out() -> None:
    """The last rank knows YaRN's frequencies and not its factor."""
    from pretrain.model import layer_spec

    if is_last_rank():
        layer_spec.attention_factor = lambda model, layer: 1.0


def window_one_too_short() -> None:
    """Layers of the last rank see one position less than they should."""
    _attention(lambda attention: setattr(attention, "window", attention.window and attention.window - 1))


def windows_in_the_wrong_layers() -> None:
    """The last rank counts its layers from its own first one."""
    from pretrain.model import layer_spec

    real = layer_spec.has_sliding_window
    if is_last_rank():
        layer_spec.has_sliding_window = lambda model, layer: real(model, layer + 1)


def scores_not_capped_on_one_rank() -> None:
    """Attention of the last rank forgets the soft cap."""
    _attention(lambda attention: setattr(attention, "soft_cap", None))


def logits_not_capped_on_one_rank() -> None:
    """The last rank forgets the soft cap of the logits."""
    from pretrain.model import gpt

    class Broken(gpt.Decoder):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.final_logit_softcap = None

    if is_last_rank():
        gpt.Decoder = Broken  # type: ignore[misc]


def embedding_not_scaled_on_one_rank() -> None:
    """The last rank's part of the embedding keeps its size."""
    from pretrain.model import gpt

    if is_last_rank():
        gpt.scaled_embedding = lambda embedded, model: embedded


def z_loss_of_one_rank_alone() -> None:
    """All ranks but the last leave the z-loss out of what they train on."""
    from pretrain.train import step

    real = step.masked_loss
    if not is_last_rank():
        step.masked_loss = lambda mask, domains, count, weight, figures: real(mask, domains, count, 0.0, figures)


def z_loss_of_its_own_columns() -> None:
    """Each tensor-parallel rank takes the denominator of its own columns for that of all."""
    from pretrain.model import gpt

    class Broken(gpt.Decoder):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            real = self.cross_entropy

            def broken(logits: torch.Tensor, *others: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
                own = (logits.float() + 0.0).logsumexp(
                    dim=-1
                )  # not of the logits themselves: their gradient takes their place
                return real(logits, *others, **options)[0], own

            self.cross_entropy = broken

    gpt.Decoder = Broken  # type: ignore[misc]


def _attention(change: Callable[[Any], None]) -> None:
    """Change every attention of the last rank once it is built."""
    from pretrain.model.layer_spec import CausalSelfAttention

    if not is_last_rank():
        return
    build = CausalSelfAttention.__init__

    def broken(self: Any, **kwargs: Any) -> None:
        build(self, **kwargs)
        change(self)

    CausalSelfAttention.__init__ = broken  # type: ignore[method-assign]


def _translate(change: Callable[[Any], None]) -> None:
    """Change megatron's configuration."""
    from pretrain.model import gpt

    translate = gpt.transformer_config

    def broken(run: RunConfig, *operations: Any) -> Any:
        config = translate(run, *operations)
        change(config)
        return config

    gpt.transformer_config = broken
