"""Faults of how a run begins; tests/dist/faults.py has them all by name."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any


def start_is_saved() -> None:
    """Not a fault: what a run starts from is written as a checkpoint of run_dir/start, before the first step."""
    from pretrain.checkpoint.saving.save import open_saver
    from pretrain.train import loop

    load = loop.load_checkpoint

    def seen(run: Any, model: Any, optimizer: Any, reader: Any, world: Any) -> Any:
        start = load(run, model, optimizer, reader, world)
        folder = Path(run.run_dir) / "start"
        folder.mkdir(exist_ok=True)
        with open_saver(replace(run, run_dir=str(folder)), model, optimizer, world, origin=start.origin) as saver:
            saver.finish(start.state, reader.position(start.state.consumed_samples))
        return start

    loop.load_checkpoint = seen


def origin_half_forgotten() -> None:
    """A run begins with another one's checkpoint but for one weight, one first moment and the number of updates."""
    from pretrain.checkpoint.loading import load
    from pretrain.optim.states import owned_states, set_num_updates

    restore = load.restore_tensors

    def broken(folder: Any, model: Any, optimizer: Any, world: Any, **kwargs: Any) -> None:
        restore(folder, model, optimizer, world, **kwargs)
        for name in ("param", "exp_avg"):
            owned_states(optimizer)[0].states[name].detach()[0] += 1e-6
        set_num_updates(optimizer, 0)

    load.restore_tensors = broken
    start_is_saved()


def layers_begin_as_the_ones_before_them_on_the_last_stage() -> None:
    """The last rank draws the initial values of each layer under the name of the layer before it: its stage begins one too early."""
    from pretrain.model import gpt, initialize

    if int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return
    fill, named = gpt.initialize, initialize.global_named_parameters

    def one_too_early(chunk: Any) -> Iterator[tuple[str, Any]]:
        for name, parameter in named(chunk):
            yield re.sub(r"(?<=^decoder\.layers\.)\d+", lambda found: str(int(found[0]) - 1), name), parameter

    def broken(*args: Any, **kwargs: Any) -> None:
        initialize.global_named_parameters = one_too_early  # for the values alone: a checkpoint asks for the names too
        fill(*args, **kwargs)
        initialize.global_named_parameters = named

    gpt.initialize = broken
