"""Runs as earlier versions wrote them, and what those versions found in them; make.py says how they were made."""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.config.schema import RunConfig
from tests.dist.harness import Trace, make_run, run_and_trace

FORMATS = Path(__file__).parent
ONE_RANK = (
    "parallel.tensor_model_parallel_size=1",
    "parallel.pipeline_model_parallel_size=1",
    "parallel.data_parallel_size=1",
)
EARLIER_NAMES = {"held_out": "validation"}
"""A word of version 0.1.0, and today's."""


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A run with its tokenizer, shards and export, and JSON files of what was found in them; or a copy of all that."""

    name: str
    folder: Path
    saved_step: int
    last_step: int
    """The last of the steps that followed the checkpoint, in a run that never stopped."""
    loss: float
    """Loss of the saved step, in nats."""

    def copied(self, to: Path) -> "KeptRun":
        """A copy, to be trained on or damaged."""
        return replace(self, folder=Path(shutil.copytree(self.folder, to)))

    @property
    def run_dir(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / "checkpoints" / f"step-{self.saved_step:08d}"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def shards(self) -> list[Path]:
        """Prefixes of its shards."""
        return sorted(path.with_suffix("") for path in (self.folder / "shards").glob("*.json"))

    def says(self, name: str) -> Any:
        """What the version that wrote the files found in them."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def places(self) -> list[str]:
        """Overrides that say where tokenizer and shards lie now, in the words of the version that wrote run.yaml."""
        data = yaml.safe_load((self.folder / "run.yaml").read_text())["data"]
        lists = {name: data[name] for name in ("train", "held_out", "validation") if name in data}
        for sources in lists.values():
            for source in sources:
                source["prefix"] = str(self.folder / source["prefix"])
        return [f"data.tokenizer={self.tokenizer}", *(f"data.{name}={json.dumps(of)}" for name, of in lists.items())]

    def run(self, run_dir: Path, *overrides: str) -> RunConfig:
        """The run, with its paths as they are now."""
        return make_run(self.folder / "run.yaml", run_dir, *self.places(), *overrides)

    def resume(self, *overrides: str, fault: str | None = "start_is_saved") -> Trace:
        """Go on in the run's own folder, and keep what was loaded as a checkpoint of checkpoint/start."""
        run = self.run(self.run_dir, f"train.train_steps={self.last_step}", *overrides)
        return run_and_trace(run, fault, fresh=False)

    def after_the_checkpoint(self, trace: Trace) -> Trace:
        """The steps that were trained now."""
        losses, norms, domains, z_losses = (
            {step: value for step, value in values.items() if step > self.saved_step}
            for values in (trace.losses, trace.grad_norms, trace.loss_by_domain, trace.z_losses)
        )
        return replace(trace, losses=losses, grad_norms=norms, loss_by_domain=domains, z_losses=z_losses)

    def straight(self) -> Trace:
        """The same steps by the version that wrote the checkpoint, in a run that never stopped."""
        said: dict[str, dict[str, Any]] = self.says("losses.json")
        found: dict[str, Any] = {
            EARLIER_NAMES.get(name, name): {int(step): value for step, value in steps.items()}
            for name, steps in said.items()
        }
        return Trace(exit_code=0, failure=None, **found)

    def differing(self, checkpoint: Path) -> set[str]:
        """Masters and moments that are not, bit for bit, those that were written; or that are not there."""
        sums = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in read_whole(checkpoint)}
        return {name for name, _ in sums.items() ^ self.says("sums.json")["sha256"].items()}


V1 = KeptRun(name="v1", folder=FORMATS / "v1", saved_step=8, last_step=13, loss=5.663329243659973)
LLAMA = KeptRun(name="v2-llama", folder=FORMATS / "v2" / "llama", saved_step=4, last_step=7, loss=5.922338545322418)
GEMMA3 = KeptRun(name="v2-gemma3", folder=FORMATS / "v2" / "gemma3", saved_step=4, last_step=7, loss=5.7366355657577515)
RUNS = (V1, LLAMA, GEMMA3)
SENTENCEPIECE = FORMATS / "v2" / "sentencepiece"
"""A tokenizer that was imported from a tokenizer.model, with the ids of a text."""
