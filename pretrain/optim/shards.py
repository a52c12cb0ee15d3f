"""Sums over whole tensors, of which a rank's optimizer holds parts: one collective for all of them, whatever the layout."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from pretrain.config.schema import ModelConfig
from pretrain.model.families.tensors import tensors_of
from pretrain.model.gpt import unwrap
from pretrain.model.placement import specs_of
from pretrain.optim.states import masters_of, num_counted_here


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A master, full or a range, and the tensor of the whole model that it is a part of."""

    number: int
    """Number of the tensor in the whole model, the same on all ranks."""
    where: torch.Tensor
    """The same number on the device: an index from the host would be a wait in every step."""
    num_counted: int
    """Elements, from the first on, that no other rank of the group holds too, or that this one answers for."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The parts that one of megatron-core's optimizers holds."""

    of_master: dict[torch.Tensor, Shard]
    group: dist.ProcessGroup
    """Ranks that together hold every tensor once."""
    num_elements: torch.Tensor
    """Elements of every tensor of the model, its padding left out: float64 [tensors]."""

    def means(self, mains: Sequence[torch.Tensor], sums: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the mean over the whole tensor for each master, from sums over what each of them holds.

        Collective over the group: one all-reduce of a number for each tensor of the model. No device sync.
        Args: sums, numbers on the device, over the elements of each that count (``num_counted``).
        """
        shards = [self.of_master[main] for main in mains]
        totals = torch.zeros_like(self.num_elements)
        counted = [(shard.where, total) for shard, total in zip(shards, sums, strict=True) if shard.num_counted]
        if counted:
            where, parts = zip(*counted, strict=True)
            totals.index_add_(0, torch.stack(where), torch.stack(parts).double())
        dist.all_reduce(totals, group=self.group)
        means = totals / self.num_elements
        return [means[shard.number] for shard in shards]


def shards_of(config: ModelConfig, model: Sequence[DistributedDataParallel], inner: MegatronOptimizer) -> Shards:
    """Return the parts that an optimizer holds: the ranks of its gradient norm hold every element that counts there once."""
    tensors = tensors_of(config)
    numbers = {name: number for number, name in enumerate(tensors)}
    found = {parameter: numbers[spec.name] for chunk in unwrap(list(model)) for spec, parameter in specs_of(chunk)}
    of_master = {}
    device = next(iter(found)).device
    on_device = torch.arange(len(tensors), device=device)
    for parameter, main, start in masters_of(inner):
        number, counted = found[parameter], num_counted_here(inner, parameter, main, start)
        of_master[main] = Shard(number=number, where=on_device[number], num_counted=counted)
    counts = [spec.num_parameters for spec in tensors.values()]
    return Shards(
        of_master=of_master,
        group=inner.get_grad_stats_parallel_group(),
        num_elements=torch.tensor(counts, dtype=torch.float64, device=device),
    )
