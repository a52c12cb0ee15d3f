"""Planted faults: each breaks one rank's work the way a real bug would. Called in every rank before the run starts."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tests.dist.faults_at_the_start import (
    layers_begin_as_the_ones_before_them_on_the_last_stage as layers_begin_as_the_ones_before_them_on_the_last_stage,
)
from tests.dist.faults_at_the_start import origin_half_forgotten as origin_half_forgotten
from tests.dist.faults_at_the_start import start_is_saved as start_is_saved
from tests.dist.updates import adamw_in_one_pass as adamw_in_one_pass
from tests.dist.updates import adamw_in_one_pass_and_copies_lost as adamw_in_one_pass_and_copies_lost


def half_the_heads_dead_on_one_rank() -> None:
    """The last rank's attention output is zero for half of its heads."""
    from pretrain.model.layer_spec import CausalSelfAttention

    if int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return
    forward = CausalSelfAttention.forward

    def broken(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        output = forward(self, *args, **kwargs)  # [s, b, n/t * d]
        kept = torch.ones_like(output)
        kept[..., : output.shape[-1] // 2] = 0
        return output * kept

    CausalSelfAttention.forward = broken  # type: ignore[method-assign]


def one_micro_batch_dropped() -> None:
    """The last micro batch of replica 0 counts for nothing."""
    from pretrain.train import loop

    batches_of = loop.train_micro_batches

    def broken(reader: Any, run: Any, world: Any, **kwargs: Any) -> Iterator[Any]:
        batches = list(batches_of(reader, run, world, **kwargs))
        if world.dp_rank == 0 and batches[-1] is not None:
            batches[-1] = replace(batches[-1], loss_mask=torch.zeros_like(batches[-1].loss_mask))
        return iter(batches)

    loop.train_micro_batches = broken


def norm_gradient_not_reduced() -> None:
    """Norms forget that under sequence parallelism each rank sees a part of the sequence."""
    from pretrain.model.norms import RMSNorm

    build = RMSNorm.__init__

    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.weight.sequence_parallel = False

    RMSNorm.__init__ = broken  # type: ignore[method-assign]


def rows_without_a_token_counted() -> None:
    """Every row that model.vocab_size counts takes part in the softmax, as in version 0.1."""
    from pretrain.train import loop

    build = loop.build_model
    loop.build_model = lambda run, world, **_: build(run, world)


def hidden_gradient_of_own_columns_alone() -> None:
    """The loss in chunks forgets that the last hidden states serve the columns of other tensor-parallel ranks too."""
    from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region

    from pretrain.model import linear

    linear.copy_to_tensor_model_parallel_region = lambda hidden, group: hidden
    linear.gather_from_sequence_parallel_region = lambda hidden, tensor_parallel_output_grad, group: (
        gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False, group=group)
    )


def tied_copies_not_reduced() -> None:
    """The first and the last stage update their copies of a tied embedding from their own gradients alone."""
    from megatron.core.distributed import finalize_model_grads

    finalize_model_grads.__globals__["_allreduce_word_embedding_grads"] = lambda *args, **kwargs: None


def gradient_not_finite_at_step_3() -> None:
    """The loss of the third step is infinite on replica 0."""
    from pretrain.train import loop

    step = loop.train_step
    calls = iter(range(1, 1000))

    def broken(model: Any, optimizer: Any, micro_batches: Any, run: Any, world: Any, **kwargs: Any) -> Any:
        batches = list(micro_batches)
        if next(calls) == 3 and world.dp_rank == 0 and batches[0] is not None:
            batches[0] = replace(batches[0], loss_mask=batches[0].loss_mask * float("inf"))
        return step(model, optimizer, iter(batches), run, world, **kwargs)

    loop.train_step = broken


def gradient_never_finite() -> None:
    """The loss of every step is not a number."""
    from pretrain.train import loop

    batches_of = loop.train_micro_batches

    def broken(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in batches_of(*args, **kwargs):
            yield None if batch is None else replace(batch, loss_mask=batch.loss_mask * float("nan"))

    loop.train_micro_batches = broken


def rank_1_raises_at_step_2() -> None:
    """Rank 1 alone fails between two collectives."""
    from pretrain.train import loop

    step = loop.train_step
    calls = iter(range(1, 1000))

    def broken(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2 and os.environ["RANK"] == "1":
            raise RuntimeError("the fan of rank 1 has stopped")
        return step(*args, **kwargs)

    loop.train_step = broken


def rank_1_is_killed_at_step_2() -> None:
    """Rank 1 dies without a word."""
    from pretrain.train import loop

    step = loop.train_step
    calls = iter(range(1, 1000))

    def broken(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), 9)
        return step(*args, **kwargs)

    loop.train_step = broken


def uneven_masks() -> None:
    """Not a fault: row r of the global batch keeps only its first (r * 7) % seq_length + 1 predictions."""
    from pretrain.train import loop

    batches_of = loop.train_micro_batches

    def masked(reader: Any, train: Any, world: Any, **kwargs: Any) -> Iterator[Any]:
        for index, batch in enumerate(batches_of(reader, train, world, **kwargs)):
            if batch is None:
                yield None
                continue
            first = (index * world.data_parallel_size + world.dp_rank) * train.micro_batch_size
            mask = torch.zeros_like(batch.loss_mask)
            for row in range(mask.shape[0]):
                mask[row, : ((first + row) * 7) % mask.shape[1] + 1] = 1
            yield replace(batch, loss_mask=mask)

    loop.train_micro_batches = masked


def mask_forgotten_in_the_count() -> None:
    """Losses are summed over the tokens that count, and divided by all that were read."""
    from pretrain.train import step

    whole = step.masked_loss

    def broken(loss_mask: Any, *args: Any) -> Any:
        total, _, report = whole(loss_mask, *args)
        report = report.clone()
        report[:, 1] *= loss_mask.numel() / loss_mask.sum()
        return total, torch.tensor(loss_mask.numel(), dtype=torch.int32), report

    step.masked_loss = broken


def objectives_of_another_sample_on_one_rank() -> None:
    """The last rank rearranges each sample as if it were the next one."""
    from pretrain.data.read import TrainData

    if int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return
    apply = TrainData.apply_objectives
    TrainData.apply_objectives = lambda self, numbers, *args: apply(self, numbers + 1, *args)  # type: ignore[method-assign]


def mask_forgotten_on_one_rank() -> None:
    """The last rank rearranges its samples, and predicts every token of them."""
    from pretrain.data.read import TrainData

    if int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return
    apply = TrainData.apply_objectives

    def broken(self: Any, *args: Any) -> None:
        apply(self, *args)

    TrainData.apply_objectives = broken  # type: ignore[method-assign]


def documents_ignored_on_one_rank() -> None:
    """Attention of the last rank does not know where documents begin; its loss mask does."""
    from pretrain.model.layer_spec import CausalSelfAttention

    if int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return
    forward = CausalSelfAttention.forward

    def broken(self: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> torch.Tensor:
        return forward(self, query, key, value, None, **kwargs)

    CausalSelfAttention.forward = broken  # type: ignore[method-assign]


def documents_ignored_in_the_middle() -> None:
    """Stages of the pipeline that read no tokens get no boundaries either."""
    from pretrain.data.documents import Boundaries
    from pretrain.train import loop

    batches_of = loop.train_micro_batches

    def broken(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in batches_of(*args, **kwargs):
            yield None if isinstance(batch, Boundaries) else batch

    loop.train_micro_batches = broken


def documents_begin_one_token_late_on_one_rank() -> None:
    """The last rank takes the second token of every document for its first."""
    from pretrain.data.read import TrainData

    if int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return
    starts = TrainData.document_starts

    def broken(self: TrainData, *place: Any) -> Any:
        later = [found + 1 for found in starts(self, *place)]
        return [found[found <= self.config.seq_length] for found in later]

    TrainData.document_starts = broken  # type: ignore[method-assign]


def first_tokens_of_packed_documents_count_on_one_rank() -> None:
    """The last rank predicts the first token of each piece of a packed row from the piece before it, and what fills the row."""
    from pretrain.data.packing.packed_rows import PackedRowReader

    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        PackedRowReader.counted = lambda *_: None  # type: ignore[assignment, method-assign, return-value]


def documents_begin_where_their_row_does() -> None:
    """Every rank sees the documents of a row as one."""
    from pretrain.data.read import TrainData

    starts = TrainData.document_starts
    TrainData.document_starts = lambda *place: [found[:0] for found in starts(*place)]  # type: ignore[method-assign]


def one_replica_reads_the_next_row_of_its_plan() -> None:
    """The last rank takes row 1 of a plan for row 0, and so on."""
    from pretrain.data.packing.plan import Plan

    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        pieces = Plan.pieces
        Plan.pieces = lambda self, row: pieces(self, (row + 1) % self.num_rows)  # type: ignore[method-assign]


def padding_counts() -> None:
    """Every label counts, padding included."""
    from pretrain.data import batch

    sound = batch.micro_batch
    batch.micro_batch = lambda *args, **kwargs: sound(*args, **kwargs | {"pad_id": -1})


def rows_of_one_replica_named_after_another_domain() -> None:
    """The last replica takes domain 0 for domain 1, and 1 for 0."""
    from pretrain.data.batch import MicroBatch
    from pretrain.train import loop

    batches_of = loop.train_micro_batches

    def broken(reader: Any, run: Any, world: Any, **kwargs: Any) -> Iterator[Any]:
        last = world.dp_rank == world.data_parallel_size - 1
        for batch in batches_of(reader, run, world, **kwargs):
            wrong = last and isinstance(batch, MicroBatch)
            yield replace(batch, domain_ids=1 - batch.domain_ids) if wrong else batch

    loop.train_micro_batches = broken


def collectives_counted() -> None:
    """Not a fault: every rank writes how often each step, and each record, called torch.distributed."""
    import json
    from collections import Counter
    from pathlib import Path

    import torch.distributed as dist

    from pretrain.train import loop

    counts: Counter[str] = Counter()
    for name in (
        "all_reduce", "broadcast", "reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor",
        "_all_gather_base", "_reduce_scatter_base", "all_to_all_single", "gather", "scatter", "barrier",
        "batch_isend_irecv", "broadcast_object_list", "all_gather_object",
    ):  # fmt: skip

        def counted(*args: Any, call: Any = getattr(dist, name), name: str = name, **kwargs: Any) -> Any:  # noqa: B008
            counts[name] += 1
            return call(*args, **kwargs)

        setattr(dist, name, counted)
    act_of = {name: getattr(loop, name) for name in ("train_step", "step_record", "validate")}

    def written(act: str, *args: Any, **kwargs: Any) -> Any:
        before = Counter(counts)
        result = act_of[act](*args, **kwargs)
        run = next(value for value in args if hasattr(value, "run_dir"))
        with (Path(run.run_dir) / f"collectives-{os.environ['RANK']}.jsonl").open("a") as stream:
            stream.write(json.dumps([act, counts - before]) + "\n")
        return result

    for act in act_of:
        setattr(loop, act, partial(written, act))


def optimizer_state_forgotten() -> None:
    """A resume that restores weights, but starts the moments from zero."""
    from pretrain.train import loop

    load = loop.load_checkpoint

    def broken(run: Any, model: Any, optimizer: Any, reader: Any, world: Any) -> Any:
        state = load(run, model, optimizer, reader, world)
        for moments in optimizer.chained_optimizers[0].optimizer.state.values():
            moments["exp_avg"].zero_()
        return state

    loop.load_checkpoint = broken


def last_replica_reads_what_replica_0_reads() -> None:
    """The last replica trains on the samples of the first one; its own are never read."""
    from pretrain.data import reader

    build = reader.TrainReader.__init__

    def broken(self: Any, data: Any, run: Any, world: Any) -> None:
        build(self, data, run, replace(world, dp_rank=0))

    reader.TrainReader.__init__ = broken  # type: ignore[method-assign]


def rank_1_reads_other_bytes() -> None:
    """Rank 1 finds another hash in every file of a checkpoint: bad memory, or a stale view of the file system."""
    from pretrain.checkpoint.loading import choose

    if os.environ["RANK"] == "1":
        choose.hash_problem = lambda folder, entry, take=None: f"{folder / entry.path} has another hash"


def _writer_with(fault: str) -> None:
    """Every rank's writer process gets a fault of tests/dist/faulty_writer.py."""
    from pretrain.checkpoint.saving import writer

    writer.MODULE = "tests.dist.faulty_writer"
    os.environ["WRITER_FAULT"] = fault


def writer_with_a_slow_disk() -> None:
    """Not a fault: saves take long enough to be hit by kills."""
    _writer_with("disk_is_slow")


def writer_whose_file_of_step_10_loses_its_end() -> None:
    """After rank 1 has hashed what it wrote, as a full or failing file system may."""
    _writer_with("file_of_step_10_loses_its_end")


def losses_of_steps_7_and_9_a_thousandfold() -> None:
    """Two bad batches. Every rank also writes what its micro batches held, and the hash of its weights and moments."""
    import hashlib
    import json
    from pathlib import Path

    from pretrain.data.batch import MicroBatch
    from pretrain.train import loop, step

    train_step, masked_loss = loop.train_step, step.masked_loss
    factor = 1.0

    def scaled(*args: Any) -> Any:
        total, tokens, report = masked_loss(*args)
        return total * factor, tokens, report * report.new_tensor([factor, 1.0, 1.0])

    def rows_of(batch: MicroBatch) -> list[list[int]]:
        return torch.cat((batch.tokens, batch.labels[:, -1:]), dim=1).tolist()

    def state_hash(optimizer: Any) -> str:
        digest = hashlib.sha256()
        for part in optimizer.chained_optimizers:
            for parameter in (p for group in part.optimizer.param_groups for p in group["params"]):
                moments = part.optimizer.state.get(parameter, {})
                for value in (parameter, *(moments[name] for name in ("exp_avg", "exp_avg_sq") if name in moments)):
                    digest.update(value.detach().numpy().tobytes())
        return digest.hexdigest()

    def broken(model: Any, optimizer: Any, micro_batches: Any, run: Any, world: Any, **kwargs: Any) -> Any:
        nonlocal factor
        number, batches = kwargs["state"].step + 1, list(micro_batches)
        factor = 1000.0 if number in (7, 9) else 1.0
        result = train_step(model, optimizer, iter(batches), run, world, **kwargs)
        held = [
            [index * world.data_parallel_size + world.dp_rank, world.cp_rank, rows_of(batch)]
            for index, batch in enumerate(batches)
            if isinstance(batch, MicroBatch)
        ]
        with (Path(run.run_dir) / f"steps-{world.rank}.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": number, "held": held, "state": state_hash(optimizer)}) + "\n")
        return result

    loop.train_step, step.masked_loss = broken, scaled


def losses_a_thousandfold_and_recent_values_forgotten() -> None:
    """The same bad batches in a resume that does not know the steps before it."""
    from pretrain.state import Recent
    from pretrain.train import loop

    losses_of_steps_7_and_9_a_thousandfold()
    load = loop.load_checkpoint

    def broken(*args: Any) -> Any:
        start = load(*args)
        return start._replace(state=replace(start.state, recent=Recent()))

    loop.load_checkpoint = broken


def rank_1_alone_sees_a_spike_at_step_7() -> None:
    """As if rank 1 had summed the losses otherwise, and by far more than in the last bit."""
    from pretrain.train import loop, step

    if os.environ["RANK"] != "1":
        return
    train_step, means = loop.train_step, step.means
    factor = 1

    def broken_means(sums: torch.Tensor, domains: Any) -> Any:
        found = means(sums, domains)
        return replace(found, loss=found.loss * factor)

    def broken_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal factor
        factor = 1000 if kwargs["state"].step == 6 else 1
        return train_step(*args, **kwargs)

    loop.train_step, step.means = broken_step, broken_means


def older_checkpoints_deleted_before_each_save() -> None:
    """Rank 0 makes room for a checkpoint before it is written, and not once it is whole. Each deletion is safe for itself."""
    import shutil

    from fanal.run_folder import checkpoints_dir, part_name, step_of
    from pretrain.checkpoint.disk.retention import checkpoints_in
    from pretrain.train import loop

    record = loop.step_record

    def broken(run: Any, world: Any, *args: Any) -> Any:
        found = record(run, world, *args)
        if world.rank == 0:
            for checkpoint in checkpoints_in(checkpoints_dir(run.run_dir)):
                shutil.rmtree(checkpoint.rename(checkpoint.with_name(part_name(step_of(checkpoint.name) or 0))))
        return found

    loop.step_record = broken


def rank_1_fails_at_its_start() -> None:
    """Rank 1 alone never comes to its first step."""
    from pretrain.train import loop

    step = loop.train_step

    def broken(*args: Any, **kwargs: Any) -> Any:
        if os.environ["RANK"] == "1":
            raise RuntimeError("the disk of rank 1 is gone")
        return step(*args, **kwargs)

    loop.train_step = broken


def data_come_late_on_one_rank() -> None:
    """The last rank's micro batches come 30 ms late each."""
    from pretrain.train import loop

    batches_of = loop.train_micro_batches

    def late(reader: Any, run: Any, world: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in batches_of(reader, run, world, **kwargs):
            time.sleep(0.03 if world.rank == world.size - 1 else 0.0)
            yield batch

    loop.train_micro_batches = late
