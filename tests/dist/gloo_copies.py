"""What a collective takes beside its tensors on CPU ranks, measured and as a rehearsal counts it.

``python -m tests.dist.gloo_copies measure FOLDER``, ``... count FOLDER``. glibc must give freed memory back at once (MALLOC of
measured_ranks.py in the environment).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.world import open_world
from pretrain.rehearse import meter as meters
from pretrain.rehearse.groups import meet_nobody
from tests.dist.measured_ranks import MALLOC, ROOT, status_bytes

TWO_RANKS = (
    "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1", "parallel.sequence_parallel=false",
    "parallel.data_parallel_size=2",
)  # fmt: skip
WHOLE_BYTES = 32 * 2**20


def asked(what: str, folder: Path) -> dict[str, int]:
    """Measure or count in processes of their own: collective -> bytes beside its tensors."""
    environment = {**os.environ, **MALLOC, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.dist.gloo_copies", what, str(folder)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / what).read_text())


def collectives() -> dict[str, Callable[[], object]]:
    """The collectives of a step, each of a whole of WHOLE_BYTES in two parts, one of which is this rank's."""
    whole = torch.ones(WHOLE_BYTES // 4)
    part = whole[: len(whole) // 2].clone()
    mine = whole.view(2, -1)[dist.get_rank()]

    def in_one_call(operation: Callable[..., object], *arguments: torch.Tensor) -> None:
        with dist._coalescing_manager(dist.group.WORLD):  # as megatron-core sends the buckets of gradients
            operation(*arguments)

    return {
        "all_reduce": lambda: dist.all_reduce(whole),
        "broadcast": lambda: dist.broadcast(whole, 0),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(part, whole),
        "reduce_scatter_tensor, coalesced": lambda: in_one_call(dist.reduce_scatter_tensor, mine, whole),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(whole, part),
        "all_gather_into_tensor, coalesced": lambda: in_one_call(dist.all_gather_into_tensor, whole, mine),
        "all_gather": lambda: dist.all_gather(list(whole.chunk(2)), part),
    }


def rank_main(run: RunConfig, file: str) -> int:
    """One of two real ranks: the peak of each collective's second call, of the first rank into a file."""
    found = {}
    with open_world(run.parallel, seed=1) as world:
        for name, collective in collectives().items():
            collective()
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
            before = status_bytes("VmRSS")
            collective()
            found[name] = status_bytes("VmHWM") - before
        if world.rank == 0:
            Path(file).write_text(json.dumps(found))
    return 0


def count() -> dict[str, int]:
    """What a rehearsal counts for one of two CPU ranks."""
    meet_nobody(torch.device("cpu"), rank=0, num_ranks=2)
    found = {}
    meter = meters.Meter("cpu")
    with FakeTensorMode(), meter:
        for name, collective in collectives().items():
            meter.begin()
            before = meter.ledger.live_bytes
            collective()
            found[name] = meter.ledger.peak_bytes - before
    return found


def main(what: str, folder: str) -> int:
    """Measure or count."""
    if what == "count":
        Path(folder, what).write_text(json.dumps(count()))
        return 0
    code, failure = run_local_ranks(
        rank_main, load_run(ROOT / "configs" / "tiny.yaml", TWO_RANKS), str(Path(folder, what)),
        preload=["tests.dist.gloo_copies"], num_ranks=2, device_type="cpu", log_dir=Path(folder),
    )  # fmt: skip
    if failure is not None:
        print(failure.text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
