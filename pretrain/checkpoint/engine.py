"""How megatron's sharded state reaches the disk: PyTorch's own writer, in this process.

megatron-core's writer starts a manager and a writer process per save. That costs seconds, waits for ever if the writer
dies, and leaves the manager behind when a rank is killed. The ranks of the first replica write, each one file, in parallel.
The format is the same ("torch_dist"), and megatron's reader loads it.
"""

from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future


class NamingWriter(FileSystemWriter):
    """PyTorch's writer, which also says which files this rank wrote."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Called once per save, on every rank."""
        written = super().write_data(plan, planner)
        self.file_names = sorted({result.storage_data.relative_path for result in written.value()})
        return written


class InProcessSave(TorchDistSaveShardedStrategy):
    """Synchronous save with one file per rank, each synced to the disk."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)
        self.file_names: list[str] = []
        """The files this rank has written, once ``save`` returns."""

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> None:
        """Collective: every rank calls it with its part."""
        by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        writer = NamingWriter(checkpoint_dir, single_file_per_rank=True, sync_files=True)
        save(
            mcore_to_pyt_state_dict(by_key, False),
            storage_writer=writer,
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )
        self.file_names = writer.file_names
