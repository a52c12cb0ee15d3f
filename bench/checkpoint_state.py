"""What the checkpoint benchmarks save and load: a model on one rank, its optimizer full of numbers, and a run that names it."""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from bench.data_corpus import make_shard, make_tokenizer
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.reader import TrainReader, open_reader
from pretrain.data.sources import open_sources
from pretrain.model.gpt import build_model
from pretrain.optim.optimizer import build_optimizer
from pretrain.optim.states import owned_states, publish_masters
from pretrain.parallel.world import World, open_world

RUN = """
run_dir: {folder}/run
model:
  {{num_layers: {num_layers}, hidden_size: 1024, ffn_hidden_size: 4096, num_attention_heads: 16, num_query_groups: 16,
  vocab_size: 2000}}
data: {{tokenizer: {folder}/tokenizer, seq_length: 64, train: [{{prefix: {folder}/source, weight: 1}}]}}
optim: {{lr: 1.0e-4}}
train: {{train_steps: 1_000_000, global_batch_size: 1, micro_batch_size: 1, precision: {precision}}}
parallel: {{device: cpu}}
checkpoint: {{max_failed_saves: 0}}
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One rank, ready to save and to load."""

    run: RunConfig
    world: World
    model: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    reader: TrainReader
    tensors: dict[str, torch.Tensor]
    """What a checkpoint holds, by name: the optimizer's own memory, flat float32."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @torch.no_grad()
    def forget(self) -> None:
        """Lose all of it, so that a load that does nothing is found."""
        for tensor in self.tensors.values():
            tensor.zero_()

    def assert_holds(self, expected: dict[str, torch.Tensor], what: str) -> None:
        """Raises: SystemExit naming the first tensor that differs in a bit."""
        for name, tensor in self.tensors.items():
            if not torch.equal(tensor.view(torch.int32), expected[name].view(torch.int32)):
                raise SystemExit(f"{what}: {name} is not what was saved")


@contextlib.contextmanager
def open_bench(folder: Path, *, num_layers: int, precision: str) -> Iterator[Bench]:
    """A model whose masters and moments are random numbers, its weights the masters, rounded to bf16 if that is the precision."""
    make_tokenizer(folder)
    make_shard(folder, "source", num_tokens=200_000, document_tokens=600, seed=1)
    path = folder / "run.yaml"
    path.write_text(RUN.format(folder=folder, num_layers=num_layers, precision=precision))
    run = load_run(path, [])
    Path(run.run_dir).mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", WORLD_SIZE="1")
    with open_world(run.parallel, seed=1) as world, open_reader(open_sources(run), run, world) as reader:
        model = build_model(run, world)
        optimizer = build_optimizer(run, model)
        tensors = {
            f"{number}/{name}": tensor
            for number, owned in enumerate(owned_states(optimizer))
            for name, tensor in owned.states.items()
        }
        with torch.no_grad():
            for tensor in tensors.values():
                tensor.normal_()
        publish_masters(optimizer, model)
        yield Bench(run=run, world=world, model=model, optimizer=optimizer, reader=reader, tensors=tensors)
