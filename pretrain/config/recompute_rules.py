"""Rules of what is computed again in the backward pass."""

from fanal.errors import UserError
from fanal.shown import shown
from pretrain.config.derive import RECOMPUTABLE
from pretrain.config.schema import TrainConfig

DEFAULT = TrainConfig().recompute_modules


def check_recompute(train: TrainConfig) -> None:
    """Refuse parts that a layer does not have, and a choice of layers or parts that does nothing.

    Raises: UserError naming the first broken rule.
    """
    layers, modules = train.recompute_num_layers, train.recompute_modules
    if layers is not None and train.recompute != "full":
        raise UserError(
            f"train.recompute_num_layers ({layers}) counts whole layers, and needs train.recompute=full (now {train.recompute}); "
            f"train.recompute_num_layers=null works{_or_full(modules)}"
        )
    if train.offload_activations and train.recompute != "full":
        raise UserError(
            "train.offload_activations (true) keeps on the host what full recomputation holds, the inputs of layers, and needs "
            f"train.recompute=full (now {train.recompute}); train.offload_activations=false works{_or_full(modules)}"
        )
    unknown = [name for name in modules if name not in RECOMPUTABLE]
    if unknown or not modules or len(set(modules)) < len(modules):
        raise UserError(
            f"train.recompute_modules ({shown(_listed(modules), 200)}) must be one or more of {', '.join(RECOMPUTABLE)}, each "
            "once; [core_attn] works"
        )
    if {"mlp", "activation"} <= set(modules):
        raise UserError(
            f"train.recompute_modules ({_listed(modules)}) names mlp, the whole feed-forward, and activation, a part of it, which "
            f"would be computed three times; {_listed([name for name in modules if name != 'activation'])} works"
        )
    if modules != DEFAULT and train.recompute != "selective":
        raise UserError(
            f"train.recompute_modules ({_listed(modules)}) names parts of layers, and needs train.recompute=selective (now "
            f"{train.recompute}); train.recompute=selective works, or recompute_modules={_listed(DEFAULT)}"
        )


def _or_full(modules: list[str]) -> str:
    """Return the other advice, where parts of layers do not stand against it."""
    return ", or train.recompute=full" if modules == DEFAULT else ""


def _listed(modules: list[str]) -> str:
    """Return a list as an override spells it."""
    return f"[{','.join(modules)}]"
