"""Asynchronous checkpointing: training is paused while the state is copied to host memory, and no longer.

What is written, by whom, and what it takes until it counts: write_job.py.
"""

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from fanal.checkpoint_files import files_of_a_rank, texts_of_a_checkpoint
from fanal.run_folder import CONFIG, DATA, ORIGIN, STATE, TENSORS, checkpoints_dir, step_name
from pretrain.checkpoint.content import LocalBox, boxes_to_write, files_of
from pretrain.checkpoint.disk.origin import Origin, origin_text
from pretrain.checkpoint.disk.retention import Keep
from pretrain.checkpoint.disk.shard_file import header_bytes
from pretrain.checkpoint.disk.state_file import state_text
from pretrain.checkpoint.disk.tensor_index import (
    IndexedTensor,
    StoredBox,
    TensorIndex,
    boxes_to_text,
    entry_name,
    index_text,
    tensors_from_texts,
)
from pretrain.checkpoint.saving.replicas import check_replicas, sums_of, sums_of_whole
from pretrain.checkpoint.saving.staging import Staging
from pretrain.checkpoint.saving.write_job import FileJob, Job, LeaderJob, SaveError
from pretrain.checkpoint.saving.writer import WriterProcess
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig
from pretrain.data.position import DataPosition, position_text
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.model.families.tensors import tensors_of
from pretrain.model.placement import place_parameters
from pretrain.model.translate import PARAMS_DTYPE
from pretrain.optim.registry import checkpoint_states, checkpoint_states_of, num_states
from pretrain.optim.states import finish_param_sync, num_updates, owned_states
from pretrain.parallel.reduce import any_rank_each, wrapping_sum
from pretrain.parallel.texts import gather_texts, share_text
from pretrain.parallel.world import World
from pretrain.state import TrainState

SETTLE_PAUSE_S = 0.005
"""Seconds between looks at a save that training waits for, at first; they grow to one second."""
ANOTHER_FAILED = "another rank failed"
RETRY_PAUSE_S = 1.0
"""Seconds before the last checkpoint of a run is tried again, at first; they double each time."""


@dataclass(frozen=True, kw_only=True)
class SaveReport:
    """The outcome of a save: a complete checkpoint, or why there is none."""

    step: int
    path: str
    num_bytes: int
    """Bytes of the tensors of all ranks."""
    stall_s: float
    """Seconds that training was paused."""
    save_s: float
    """Seconds from its beginning to its end, the pause included."""
    failure: str | None = None
    """Reason why there is no checkpoint; the older ones are as they were."""
    warning: str | None = None
    """Problem after the checkpoint was complete."""


class Saver:
    """The saves of one run, at most one at a time. Use ``open_saver``.

    Every method but ``reports`` and ``poll`` is collective: every rank calls it after the same step.
    """

    def __init__(
        self,
        run: RunConfig,
        model: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
        world: World,
        *,
        resumed_step: int | None,
        origin: Origin | None,
    ) -> None:
        """Args: resumed_step: step of the checkpoint that the run resumes from, which is there already."""
        self._run, self._model, self._optimizer, self._world = run, model, optimizer, world
        self._origin = origin
        # Here, and not while training stands still.
        self._config_text = to_yaml(run) if world.rank == 0 else ""
        self._placements = place_parameters(model, world)
        boxes = boxes_to_write(
            self._placements,
            owned_states(optimizer),
            world,
            is_distributed=run.parallel.use_distributed_optimizer,
        )
        self._states = checkpoint_states(run.optim)
        self._kept = {name: checkpoint_states_of(run.optim, spec) for name, spec in tensors_of(run.model).items()}
        num_bytes = checkpoint_bytes(run.model, num_states=num_states(run.optim))
        contents = files_of(boxes, num_files=files_of_a_rank(num_bytes, world.size))
        self._staging = Staging(contents, self._states, world.device)
        self._files = [
            FileJob(
                number=world.rank + number * world.size, header=_header(content, self._states), start=start, end=end
            )
            for number, (content, (start, end)) in enumerate(zip(contents, self._staging.ranges, strict=True))
        ]
        self._writer = WriterProcess(self._staging, stage_timeout_s=run.checkpoint.phase_timeout_s)
        self._agree_on_layout(
            boxes_to_text(
                (local.tensor, local.shape, StoredBox(file=file.number, box=local.box))
                for file, content in zip(self._files, contents, strict=True)
                for local in content
            )
        )
        self._step: int | None = None  # of the save that is under way
        self._saved_step = resumed_step  # of the newest checkpoint
        self._started = self._stall_s = 0.0
        self._num_saves = self._failed_in_a_row = 0
        self._is_news_due = False
        self._reports: list[SaveReport] = []

    @property
    def has_failed(self) -> bool:
        """Whether this rank's part of the save under way has failed; then all ranks must ``give_up`` after this step."""
        return self._step is not None and self._writer.failure is not None

    def poll(self) -> None:
        """Look how far the save under way has come. Does not wait; no collective."""
        self._writer.poll()
        if self._is_news_due and not self._writer.is_busy and not self.has_failed:
            self._report(warning=self._writer.warning)

    def reports(self) -> list[SaveReport]:
        """Return the reports since the last call; none on ranks other than 0."""
        found, self._reports = self._reports, []
        return found

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that is known to be complete; None if there is none."""
        step = self._saved_step
        return None if step is None else checkpoints_dir(self._run.run_dir) / step_name(step)

    def begin(self, state: TrainState, position: DataPosition) -> None:
        """Start to write the checkpoint of this step, unless it is there. Waits for the one under way.

        Raises: ReplicaDriftError; SaveError if too many in a row have failed.
        """
        began = time.perf_counter()  # a wait for the save before is a stall as well
        self.settle()
        if state.step == self._saved_step:
            return
        self._started = began
        finish_param_sync(self._model)
        sums = sums_of(self._placements)
        check_replicas(self._placements, sums, self._world)
        whole = sums_of_whole(list(self._tensors), self._placements, sums, self._world)
        self._staging.fill()
        self._num_saves += 1
        self._step, self._is_news_due = state.step, self._world.rank == 0
        self._writer.write(
            Job(
                folder=str(checkpoints_dir(self._run.run_dir)),
                step=state.step,
                attempt=f"{self._token}-{self._num_saves}",
                rank=self._world.rank,
                num_ranks=self._world.size,
                files=tuple(self._files),
                leader=self._leader_job(state, position, whole) if self._world.rank == 0 else None,
            )
        )
        self._stall_s = time.perf_counter() - self._started
        if not self._run.checkpoint.asynchronous:
            self.settle()
            self._stall_s = time.perf_counter() - self._started

    def settle(self) -> None:
        """Wait until no save is under way.

        Raises: SaveError if too many in a row have failed.
        """
        pause = SETTLE_PAUSE_S
        while self._step is not None:
            self.poll()
            is_pending, has_failed = any_rank_each([self._writer.is_busy, self.has_failed], self._world)
            if has_failed:
                self.give_up()
            elif not is_pending:
                self._succeed()
            else:
                time.sleep(pause)
                pause = min(1.0, pause * 1.02)  # at most this part of the wait is spent too late

    def finish(self, state: TrainState, position: DataPosition) -> None:
        """Write the checkpoint of this step, wait for it, and try again if that fails: there is no later one.

        Raises: ReplicaDriftError; SaveError if too many in a row have failed.
        """
        pause = RETRY_PAUSE_S
        while True:
            self.begin(state, position)
            self.settle()
            if self._saved_step == state.step:
                return
            time.sleep(pause)
            pause *= 2

    def give_up(self) -> None:
        """End the save under way on every rank, since it failed on one. A checkpoint that rank 0's writer has completed counts.

        Raises: SaveError if too many in a row have failed.
        """
        self.poll()
        if self._writer.is_busy:
            self._writer.fail(ANOTHER_FAILED)
        own = self._writer.failure
        gathered = gather_texts(own or "", self._world)
        reason = share_text(None if gathered is None or own is None else _reason_of(gathered), self._world)
        if reason is None:
            self.poll()
            self._succeed()
            return
        step = self._step
        assert step is not None, "no save was under way"
        if self._world.rank == 0:
            self._writer.set_aside(str(checkpoints_dir(self._run.run_dir)), step, reason)
            self._report(failure=reason)
        self._step = None
        self._failed_in_a_row += 1
        if self._failed_in_a_row > self._run.checkpoint.max_failed_saves:
            raise SaveError(
                f"{self._failed_in_a_row} saves in a row have failed, and checkpoint.max_failed_saves "
                f"({self._run.checkpoint.max_failed_saves}) allows no more; the last one, of step {step}: {reason}"
            )

    def close(self) -> None:
        """End the writer process and free the memory. No collective."""
        self._writer.close()
        self._staging.close()

    def _succeed(self) -> None:
        self._saved_step, self._step, self._failed_in_a_row = self._step, None, 0

    def _agree_on_layout(self, boxes: str) -> None:
        """Tell rank 0 who holds what, and agree on the order of tensors and on a name for this run's saves. Collective."""
        gathered = gather_texts(boxes, self._world)
        text = None
        self._layout = {} if gathered is None else tensors_from_texts(gathered)
        if gathered is not None:
            text = json.dumps([secrets.token_hex(4), list(self._layout)])
        self._token, self._tensors = json.loads(share_text(text, self._world) or "")
        (self._num_bytes,) = wrapping_sum([sum(file.num_bytes for file in self._files)], self._world)

    def _leader_job(self, state: TrainState, position: DataPosition, sums: list[int]) -> LeaderJob:
        index = TensorIndex(
            states=self._states,
            num_updates=num_updates(self._optimizer),
            weights_dtype=str(PARAMS_DTYPE[self._run.train.precision]).removeprefix("torch."),
            tensors={
                name: IndexedTensor(
                    name=name,
                    shape=shape,
                    stored=tuple(stored),
                    weights_sum=f"{value:016x}",
                    states=None if self._kept[name] == self._states else self._kept[name],
                )
                for (name, (shape, stored)), value in zip(self._layout.items(), sums, strict=True)
            },
        )
        config = self._run.checkpoint
        texts = {
            STATE: state_text(state),
            DATA: position_text(position),
            CONFIG: self._config_text,
            TENSORS: index_text(index),
            **({} if self._origin is None else {ORIGIN: origin_text(self._origin)}),
        }
        assert tuple(texts) == texts_of_a_checkpoint(has_origin=self._origin is not None), "preflight counts others"
        return LeaderJob(
            texts=texts,
            num_bytes=self._num_bytes,
            keep=Keep(last=config.keep_last, every_steps=config.keep_every_steps),
        )

    def _report(self, **news: object) -> None:
        report = SaveReport(
            step=self._step or 0,
            path=str(checkpoints_dir(self._run.run_dir) / step_name(self._step or 0)),
            num_bytes=self._num_bytes,
            stall_s=self._stall_s,
            save_s=time.perf_counter() - self._started,
        )
        self._is_news_due = False
        self._reports.append(dataclasses.replace(report, **news))  # type: ignore[arg-type]


def _header(boxes: Sequence[LocalBox], states: Sequence[str]) -> str:
    """Return the header of the file that holds these states of these boxes, a character for a byte."""
    entries = (
        (entry_name(local.tensor, state, local.box), local.box.size)
        for state in states
        for local in boxes
        if state in local.states
    )
    return header_bytes(entries).decode("latin-1")


def _reason_of(gathered: Sequence[str]) -> str:
    """Return why a save failed, from what each rank says of it; empty if none says anything."""
    found = [f"rank {rank}: {text}" for rank, text in enumerate(gathered) if text not in ("", ANOTHER_FAILED)]
    # Rank 0's writer may only repeat what another one has told it.
    return "; ".join(text for text in found if text.removeprefix("rank 0: ") not in set(found) - {text})


@contextlib.contextmanager
def open_saver(
    run: RunConfig,
    model: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    world: World,
    *,
    resumed_step: int | None = None,
    origin: Origin | None = None,
) -> Iterator[Saver]:
    """Open the saver of a run, which started from ``origin``. Collective to open; after an exception nothing is waited for."""
    saver = Saver(run, model, optimizer, world, resumed_step=resumed_step, origin=origin)
    try:
        yield saver
    finally:
        saver.close()
