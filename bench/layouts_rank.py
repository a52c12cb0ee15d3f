"""One rank of ``bench.layouts``: the trainer's own step on synthetic batches, and what this process did meanwhile.

Imports neither torch nor numpy before ``measure``, which wants to see whose threads come when.
"""

import contextlib
import functools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "barrier", "batch_isend_irecv", "broadcast", "reduce_scatter_tensor"
)  # fmt: skip
"""Functions of torch.distributed that a step calls."""
MAIN, OPENBLAS, POOL, OPENMP = "main", "numpy's OpenBLAS", "torch's pthreadpool", "OpenMP"
NAMED = {"gloo_tcp_loop": "gloo's sockets", "pt_gloo_runloop": "gloo's collectives"}
WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run lies on processes, and how much of it is measured."""

    name: str
    num_ranks: int
    parallel: Mapping[str, Any]
    """Keys of the section parallel."""
    threads: int | None
    """Of torch in each rank; None is what a local rank takes by itself."""
    steps: int


@dataclass(kw_only=True)
class Collectives:
    """Time of the main thread inside torch.distributed; a call within a call counts once."""

    calls: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    _inside: bool = field(default=False, repr=False)

    @contextlib.contextmanager
    def clock(self, *, call: bool = True) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside, wall_s, cpu_s = True, time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self._inside = False
            self.calls += call
            self.wall_s += time.perf_counter() - wall_s
            self.cpu_s += time.thread_time() - cpu_s

    def forget(self) -> None:
        self.calls, self.wall_s, self.cpu_s = 0, 0.0, 0.0

    def watch(self) -> None:
        """Put this clock around torch.distributed, before megatron-core is imported and takes the names from there."""
        import torch.distributed as dist

        for name in COLLECTIVES:
            setattr(dist, name, self._timed(getattr(dist, name)))
        distributed: Any = dist
        distributed._coalescing_manager = self._timed_manager(distributed._coalescing_manager)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.clock():
                returned = function(*args, **kwargs)
            if isinstance(returned, list):
                return [_TimedWork(one, self) for one in returned]
            return None if returned is None else _TimedWork(returned, self)

        return call

    def _timed_manager(self, manager_of: Callable[..., Any]) -> Callable[..., Any]:
        @contextlib.contextmanager
        def manage(*args: Any, **kwargs: Any) -> Iterator[Any]:
            manager = manager_of(*args, **kwargs)
            coalesced = manager.__enter__()
            waits = coalesced.wait

            def wait() -> None:
                with self.clock(call=False):
                    waits()

            coalesced.wait = wait
            yield coalesced
            with self.clock(call=False):  # here the calls inside the block are sent off
                manager.__exit__(None, None, None)

        return manage


class _TimedWork:
    """A collective under way, whose ``wait`` is timed."""

    def __init__(self, work: Any, collectives: Collectives) -> None:
        self._work, self._collectives = work, collectives

    def wait(self, *args: Any) -> Any:
        with self._collectives.clock(call=False):
            return self._work.wait(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


class Threads:
    """The threads of this process by what they are. Those that libraries leave unnamed are known by when they came."""

    def __init__(self) -> None:
        self._unnamed: dict[int, str] = {}
        self._known = _thread_ids()

    def came(self, kind: str) -> None:
        """Say what the threads are that have come since the last call."""
        now = _thread_ids()
        self._unnamed |= dict.fromkeys(now - self._known, kind)
        self._known = now

    def kinds(self) -> dict[int, str]:
        """Return what each living thread is."""
        python = {thread.native_id: f"Python: {thread.name}" for thread in threading.enumerate()}
        unnamed = _name_of(os.getpid())  # a new thread has the name of the one that made it
        kinds = {}
        for number in _thread_ids():
            with contextlib.suppress(OSError):  # it has ended
                name = _name_of(number)
                named = NAMED.get(name) or self._unnamed.get(number) or python.get(number)
                kinds[number] = named or (OPENMP if name == unnamed else name)
        kinds[os.getpid()] = MAIN
        return kinds

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds of all living threads, by kind."""
        seconds: Counter[str] = Counter()
        for number, kind in self.kinds().items():
            with contextlib.suppress(OSError):
                seconds[kind] += int(Path(f"/proc/self/task/{number}/schedstat").read_text().split()[0]) / 1e9  # type: ignore[assignment]
        return dict(seconds)


def measure(layout: Layout, folder: Path) -> int:
    """Train as one rank, and write what was found to folder/rank-N.json. Returns: the exit code of a rank that ended well."""
    threads = Threads()
    import numpy  # noqa: F401

    threads.came(OPENBLAS)
    import torch

    from fanal.host_cores import host_cores

    torch.set_num_threads(layout.threads or max(1, host_cores() // layout.num_ranks))
    threads.came(POOL)
    collectives = Collectives()
    collectives.watch()
    found = _train(layout, threads, collectives)
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
    return 0


def _train(layout: Layout, threads: Threads, collectives: Collectives) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from bench.step.ours import NO_PADDING, run_config
    from bench.step.task import LEARNING_RATE, Shape, batches
    from pretrain.config.schema import ParallelConfig
    from pretrain.data.batch import micro_batch
    from pretrain.data.reader import reads_data
    from pretrain.model.gpt import build_model
    from pretrain.optim.optimizer import build_optimizer, set_learning_rate
    from pretrain.parallel.reduce import any_rank_each
    from pretrain.parallel.world import open_world
    from pretrain.state import TrainState
    from pretrain.train.step import train_step

    shape = Shape(
        num_layers=4, hidden_size=192, num_heads=6, num_groups=2, ffn_hidden_size=512, vocab_size=2048, seq_length=256
    )  # fmt: skip  # configs/tiny.yaml
    run = run_config(shape, "fp32", parallel=ParallelConfig(device="cpu", **layout.parallel), global_batch_size=16)
    opened = time.perf_counter()
    with open_world(run.parallel, seed=1) as world:
        world_s = time.perf_counter() - opened
        model = build_model(run, world)
        optimizer = build_optimizer(run, model)
        set_learning_rate(optimizer, LEARNING_RATE)
        own = batches(shape, run.train.global_batch_size // shape.batch_size)[world.dp_rank :: world.data_parallel_size]
        data = [
            micro_batch(rows, world.device, seq_length=shape.seq_length, pad_id=NO_PADDING, has_padding=False)
            if reads_data(world)
            else None
            for rows in own
        ]

        def step() -> float:
            result = train_step(
                model, optimizer, iter(data), run, world, state=TrainState(), domains=("text",),
                global_batch_size=run.train.global_batch_size,
            )  # fmt: skip
            any_rank_each([False] * 3, world)  # as a run does, to stop and to save together
            return result.loss

        for _ in range(WARM_UP_STEPS):
            step()
        dist.barrier()
        collectives.forget()
        before, cpu_before = _switches(), threads.cpu_s()
        wall_s, process_s = time.perf_counter(), time.process_time()
        losses = [step() for _ in range(layout.steps)]
        wall_s, process_s = time.perf_counter() - wall_s, time.process_time() - process_s
        cpu_after, after = threads.cpu_s(), _switches()
        return {
            "loss": losses[-1],
            "tokens": run.train.global_batch_size * shape.seq_length,
            "world_s": world_s,
            "wall_s": wall_s / layout.steps,
            "cpu_s": process_s / layout.steps,
            "collective_wall_s": collectives.wall_s / layout.steps,
            "collective_cpu_s": collectives.cpu_s / layout.steps,
            "collectives": collectives.calls / layout.steps,
            "voluntary": (after[0] - before[0]) / layout.steps,
            "forced": (after[1] - before[1]) / layout.steps,
            "threads": Counter(threads.kinds().values()),
            "thread_cpu_s": {kind: (cpu_after[kind] - cpu_before.get(kind, 0.0)) / layout.steps for kind in cpu_after},
            "torch_threads": torch.get_num_threads(),
        }


def _thread_ids() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def _name_of(thread: int) -> str:
    return Path(f"/proc/self/task/{thread}/comm").read_text().strip()


def _switches() -> tuple[int, int]:
    """Return how often a thread of this process gave up its core, and how often it was taken from one."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw, usage.ru_nivcsw
