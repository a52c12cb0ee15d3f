"""Three phases as three configurations: pretraining, context extension, annealing, each from the one before."""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fanal.run_folder import DATA, MANIFEST, ORIGIN, checkpoints_dir, step_name
from fanal.run_progress import metrics
from pretrain.__main__ import cli
from pretrain.checkpoint.disk.origin import chain, read_origin
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.tensors import read_whole
from pretrain.config.derive import world_size
from pretrain.config.schema import RunConfig
from pretrain.data.position import read_position
from pretrain.data.sources import open_sources
from pretrain.inspect.bounds import FP32
from pretrain.plan.retention import checkpoint_inodes
from tests.dist.harness import Trace, make_run, run_and_trace
from tests.dist.test_independent_llama import shape_of
from tests.reference.llama import ReferenceLlama
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, PP2, TP2

PRETRAIN_STEPS, EXTENSION_STEPS, ANNEALING_STEPS = 6, 4, 3
EXTENSION = (
    *PP2, *NO_DISTRIBUTED_OPTIMIZER, "checkpoint.init_optimizer=fresh", "checkpoint.asynchronous=false", "checkpoint.interval=1",
    "data.seq_length=128", "model.rotary_base=1e6", "train.global_batch_size=4", "optim.lr=2e-4", "optim.min_lr=2e-4",
    "optim.lr_decay_style=constant", "optim.lr_warmup_samples=0", f"train.train_steps={EXTENSION_STEPS}",
)  # fmt: skip
ANNEALING = (
    *DP2, "checkpoint.init_optimizer=keep", "data.seq_length=128", "model.rotary_base=1e6", "data.seed=7", "train.precision=bf16",
    "optim.lr=3e-4", "optim.min_lr=0", "optim.lr_decay_style=linear", "optim.lr_warmup_samples=0", "optim.adam_eps=1e-5",
    f"train.train_steps={ANNEALING_STEPS}",
)  # fmt: skip


@dataclass(frozen=True)
class Phase:
    run: RunConfig
    trace: Trace
    last: Path
    """Its last checkpoint."""
    start: Path
    """What it started from, as a checkpoint."""


@dataclass(frozen=True)
class Phases:
    pretrain: Phase
    extension: Phase
    annealing: Phase


def prose_alone(data_folder: Path) -> str:
    return f"data.train=[{{prefix: {data_folder}/shards/train-prose}}]"


def init_from(folder: Path) -> str:
    return f"checkpoint.init_from={folder}"


def trained(run: RunConfig) -> Phase:
    trace = run_and_trace(run, "start_is_saved")
    assert trace.exit_code == 0, trace.failure
    last = checkpoints_dir(run.run_dir) / step_name(run.train.train_steps)
    return Phase(run, trace, last, checkpoints_dir(Path(run.run_dir) / "start") / step_name(0))


@pytest.fixture(scope="session")
def phases(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Phases:
    """Each in another layout. Not to be changed. The weights are large enough for attention, and so for the rotary base, to
    matter after a few steps."""
    folder = tmp_path_factory.mktemp("phases")
    first = make_run(small_run, folder / "pretrain", *TP2, f"train.train_steps={PRETRAIN_STEPS}", "checkpoint.interval=3",
                     "model.init_method_std=0.2")  # fmt: skip
    second = make_run(
        small_run, folder / "extension", *EXTENSION, prose_alone(data_folder), init_from(folder / "pretrain")
    )
    third = make_run(small_run, folder / "annealing", *ANNEALING, init_from(folder / "extension"))
    return Phases(trained(first), trained(second), trained(third))


@pytest.fixture
def source(phases: Phases, tmp_path: Path) -> Path:
    """A copy of the first phase's folder, to be damaged or moved."""
    shutil.copytree(checkpoints_dir(phases.pretrain.run.run_dir), checkpoints_dir(tmp_path / "source"))
    return tmp_path / "source"


def changed(checkpoint: Path, other: Path) -> set[str]:
    """Names of the tensors and states that are not the same in both, bit for bit."""
    ours, theirs = dict(read_whole(checkpoint)), dict(read_whole(other))
    assert ours.keys() == theirs.keys() != set()
    return {name for name, values in ours.items() if values.tobytes() != theirs[name].tobytes()}


def moments_in_use(checkpoint: Path) -> set[str]:
    """Names of moments that are not zero everywhere."""
    return {name for name, values in read_whole(checkpoint) if not name.endswith("/param") and values.any()}


def everything_in(folder: Path) -> dict[str, tuple[str, int]]:
    """Of each file and folder, its content's hash and when it changed."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "", path.stat().st_mtime_ns,
        )
        for path in [folder, *folder.rglob("*")]
    }  # fmt: skip


def independent_loss(run: RunConfig, checkpoint: Path) -> dict[str, float]:
    """Validation loss by domain of a Llama in plain PyTorch with the weights of a checkpoint."""
    weights = {name.removesuffix("/param"): torch.from_numpy(values) for name, values in read_whole(checkpoint)
               if name.endswith("/param")}  # fmt: skip
    model = ReferenceLlama(shape_of(run), weights)
    losses = {}
    for source in open_sources(run).validation:
        tokens = np.memmap(f"{source.shard.prefix}.bin", "<u2", mode="r")
        count = min(run.train.validation_samples, (len(tokens) - 1) // run.data.seq_length)
        rows = np.stack(
            [
                tokens[at : at + run.data.seq_length + 1]
                for at in range(0, count * run.data.seq_length, run.data.seq_length)
            ]
        )
        samples = torch.from_numpy(rows.astype(np.int64))
        with torch.no_grad():
            total, number = model.loss(samples[:, :-1], samples[:, 1:], torch.ones(samples[:, 1:].shape))
        losses[source.domain] = float(total / number)
    return losses


def test_a_phase_starts_with_the_very_weights_of_the_one_before_and_a_fresh_or_the_kept_optimizer(
    phases: Phases,
) -> None:
    fresh, kept = phases.extension, phases.annealing
    assert not {name for name in changed(fresh.start, phases.pretrain.last) if name.endswith("/param")}
    assert not moments_in_use(fresh.start) and read_index(fresh.start).num_updates == 0
    assert read_index(fresh.last).num_updates == EXTENSION_STEPS
    assert not changed(kept.start, fresh.last), "fp32 under PP2 to bf16 under DP2, masters and moments"
    assert len(moments_in_use(kept.start)) == 2 * len(read_index(kept.start).tensors), "so that zeros would be noticed"
    assert read_index(kept.start).num_updates == EXTENSION_STEPS
    assert read_index(kept.last).num_updates == EXTENSION_STEPS + ANNEALING_STEPS
    assert read_index(kept.last).weights_dtype == "bfloat16"


def test_a_start_that_loses_something_of_its_origin_would_be_noticed(
    small_run: Path, phases: Phases, tmp_path: Path
) -> None:
    run = make_run(
        small_run, tmp_path, "train.train_steps=1", "optim.lr_warmup_samples=0", init_from(phases.pretrain.last)
    )
    assert run_and_trace(run, "origin_half_forgotten").exit_code == 0
    start = checkpoints_dir(tmp_path / "start") / step_name(0)
    assert {name.rpartition("/")[2] for name in changed(start, phases.pretrain.last)} == {"param", "exp_avg"}
    assert read_index(start).num_updates == 0 != read_index(phases.pretrain.last).num_updates


def states_of(checkpoint: Path) -> dict[str, dict[str, bytes]]:
    """Every tensor's bytes, by state."""
    found: dict[str, dict[str, bytes]] = {}
    for name, values in read_whole(checkpoint):
        tensor, _, state = name.rpartition("/")
        found.setdefault(state, {})[tensor] = values.tobytes()
    return found


def test_a_phase_with_another_optimizer_goes_on_with_the_states_that_mean_the_same(
    small_run: Path, phases: Phases, tmp_path: Path
) -> None:
    """From AdamW under TP2 to AdEMAMix under DP2, and back to AdamW on one rank."""
    shared = ("train.train_steps=2", "optim.lr_warmup_samples=0", "data.validation=[]")
    mixed = (
        *DP2, "optim.name=ademamix", "optim.ademamix_alpha_warmup_steps=12", "optim.ademamix_beta3_warmup_steps=12",
        "checkpoint.interval=1", "checkpoint.asynchronous=false",
    )  # fmt: skip
    there = trained(make_run(small_run, tmp_path / "there", *shared, *mixed, init_from(phases.pretrain.last)))
    before, begun, ended = (states_of(folder) for folder in (phases.pretrain.last, there.start, there.last))
    slow = begun.pop("exp_avg_slow")
    assert begun == before and not any(content.strip(b"\0") for content in slow.values())
    assert [read_index(folder).num_updates for folder in (there.start, there.last)] == [
        PRETRAIN_STEPS,
        PRETRAIN_STEPS + 2,
    ]
    said = (
        "the optimizer is AdEMAMix (optim.name=ademamix) and was adamw: exp_avg and exp_avg_sq and the count of 6 updates are "
        "kept, exp_avg_slow at zero"
    )
    (record, *_) = metrics(Path(there.run.run_dir))
    assert said in there.trace.output.splitlines() and record["optimizer_change"] == said
    assert record["optimizer"].startswith("AdEMAMix, betas 0.9, 0.95 and 0.9999 (warmed up over 12 updates)")
    killed = replace(there.run, run_dir=str(tmp_path / "killed"))
    assert list(run_and_trace(killed, "rank_1_is_killed_at_step_2").losses) == [1], "in the middle of its warm-ups"
    assert run_and_trace(killed, fresh=False).exit_code == 0
    assert states_of(checkpoints_dir(killed.run_dir) / step_name(2)) == ended
    back = trained(make_run(small_run, tmp_path / "back", *shared, init_from(there.last)))
    assert ended.pop("exp_avg_slow") and states_of(back.start) == ended
    assert (
        "is AdamW (optim.name=adamw) and was ademamix: exp_avg and exp_avg_sq and the count of 8 upd"
        in back.trace.output
    )
    fresh = make_run(small_run, tmp_path / "fresh", *shared, "checkpoint.init_optimizer=fresh", init_from(there.last))
    begun = states_of(trained(fresh).start)
    assert begun["param"] == ended["param"]
    assert not any(content.strip(b"\0") for state in ("exp_avg", "exp_avg_sq") for content in begun[state].values())


def test_muon_begins_with_the_moments_of_adamw_and_leaves_none_to_it(
    small_run: Path, phases: Phases, tmp_path: Path
) -> None:
    """From AdamW under TP2 to Muon under DP2; what it wrote has no second moments of matrices to go back with."""
    shared = ("train.train_steps=2", "optim.lr_warmup_samples=0", "data.validation=[]")
    muon = make_run(small_run, tmp_path / "muon", *shared, *DP2, "optim.name=muon", init_from(phases.pretrain.last))
    there = trained(muon)
    before, begun = states_of(phases.pretrain.last), states_of(there.start)
    assert begun["param"] == before["param"] and begun["exp_avg"] == before["exp_avg"]
    rest = {name for name in before["exp_avg_sq"] if "layers" not in name or "norm" in name}
    assert begun["exp_avg_sq"] == {name: before["exp_avg_sq"][name] for name in rest}
    assert read_index(there.last).num_updates == PRETRAIN_STEPS + 2
    back = run_and_trace(make_run(small_run, tmp_path / "back", *shared, init_from(there.last)))
    assert back.exit_code == 2 and back.failure is not None
    assert "checkpoint.init_optimizer=fresh works" in str(back.failure.error)


def test_the_first_validation_loss_is_that_of_an_independent_llama_with_these_weights(phases: Phases) -> None:
    found = phases.extension.trace.validation[0]
    assert found == pytest.approx(independent_loss(phases.extension.run, phases.pretrain.last), rel=FP32.loss)
    other = replace(phases.extension.run, model=phases.pretrain.run.model)
    wrong = independent_loss(other, phases.pretrain.last)
    assert found != pytest.approx(wrong, rel=FP32.loss), "the rotary base of the phase before would be noticed"
    bf16 = phases.annealing.trace.validation[0]
    assert bf16 == pytest.approx(independent_loss(phases.annealing.run, phases.extension.last), rel=5e-3)


def test_steps_samples_and_their_order_begin_anew(phases: Phases, data_folder: Path) -> None:
    for phase, batch in ((phases.extension, 4), (phases.annealing, 8)):
        position = read_position(phase.last / DATA)
        assert min(phase.trace.losses) == 1 and position.consumed_samples == batch * phase.run.train.train_steps
        assert position.seq_length == 128
    rates = [
        json.loads(line).get("learning_rate") for line in (phases.annealing.last.parents[1] / "metrics.jsonl").open()
    ]
    assert [rate for rate in rates if rate is not None] == pytest.approx([3e-4, 2e-4, 1e-4])
    (source,) = read_position(phases.extension.last / DATA).sources
    assert source.prefix == f"{data_folder}/shards/train-prose" and source.cursor == 16


def test_every_checkpoint_tells_the_chain_of_phases_to_the_first(phases: Phases) -> None:
    assert read_origin(phases.pretrain.last) is None and not (phases.pretrain.last / ORIGIN).exists()
    second, first = chain(read_origin(phases.annealing.last))
    assert first == read_origin(phases.extension.last)
    for origin, phase, optimizer, tokens in (
        (second, phases.extension, "keep", 4 * 4 * 128),
        (first, phases.pretrain, "fresh", 6 * 8 * 64),
    ):
        assert origin.manifest_sha256 == hashlib.sha256((phase.last / MANIFEST).read_bytes()).hexdigest()
        assert (origin.checkpoint, origin.init_from) == (str(phase.last), phase.run.run_dir)
        assert (origin.step, origin.consumed_tokens, origin.init_optimizer) == (
            phase.run.train.train_steps,
            tokens,
            optimizer,
        )
        assert origin.data == json.loads((phase.last / DATA).read_text())
    shown = CliRunner().invoke(cli, ["verify", str(phases.annealing.last)])
    assert shown.exit_code == 0, shown.output
    lines = [line for line in shown.output.splitlines() if line.startswith("started from")]
    assert lines == [
        f"started from {phases.extension.last}, step 4 after 2,048 tokens, optimizer kept, manifest {second.manifest_sha256[:12]}",
        f"started from {phases.pretrain.last}, step 6 after 3,072 tokens, optimizer fresh, manifest {first.manifest_sha256[:12]}",
    ]


def test_preflight_counts_the_files_of_a_run_with_and_without_an_origin(phases: Phases) -> None:
    for phase, num_files in ((phases.pretrain, 0), (phases.extension, 1)):
        num_ranks = world_size(phase.run.parallel)
        counted, _ = checkpoint_inodes(phase.run, num_ranks=num_ranks)
        assert 1 + sum(1 for _ in phase.last.rglob("*")) == counted == 8 + num_ranks + num_files


def test_a_phase_that_was_killed_goes_on_from_its_own_checkpoint_whatever_became_of_its_origin(
    small_run: Path, data_folder: Path, phases: Phases, source: Path, tmp_path: Path
) -> None:
    before = everything_in(source)
    run = make_run(small_run, tmp_path / "run", *EXTENSION, prose_alone(data_folder), init_from(source))
    killed = run_and_trace(run, "rank_1_is_killed_at_step_2")
    assert killed.exit_code != 0 and list(killed.losses) == [1]
    assert everything_in(source) == before, "nothing is written, renamed or locked there"
    source.rename(tmp_path / "moved")
    copy = replace(run, run_dir=str(shutil.copytree(tmp_path / "run", tmp_path / "copy")))
    resumed, straight = run_and_trace(run, fresh=False), phases.extension.trace
    assert resumed.exit_code == 0, resumed.failure
    assert resumed.losses == straight.losses and resumed.validation[4] == straight.validation[4]
    assert not changed(checkpoints_dir(run.run_dir) / step_name(4), phases.extension.last)
    ours, theirs = read_origin(checkpoints_dir(run.run_dir) / step_name(4)), read_origin(phases.extension.last)
    assert ours is not None and theirs is not None and ours.checkpoint == str(checkpoints_dir(source) / step_name(6))
    assert replace(ours, init_from=theirs.init_from, checkpoint=theirs.checkpoint) == theirs
    broken = run_and_trace(copy, "optimizer_state_forgotten", fresh=False)
    assert broken.exit_code == 0 and broken.losses != straight.losses, "moments that a resume loses would be noticed"


def test_a_run_does_not_go_on_under_a_config_that_says_it_began_elsewhere(
    small_run: Path, data_folder: Path, phases: Phases, source: Path, tmp_path: Path
) -> None:
    shutil.copytree(phases.extension.last, checkpoints_dir(tmp_path / "run") / step_name(4))

    def go_on(*overrides: str) -> Trace:
        longer = ("train.train_steps=5", prose_alone(data_folder), *overrides)
        return run_and_trace(make_run(small_run, tmp_path / "run", *EXTENSION, *longer), fresh=False)

    refused = go_on(init_from(phases.annealing.last))
    assert refused.exit_code == 2 and refused.failure is not None
    assert (
        f"checkpoint.init_from ({phases.annealing.last}) must name what the run started from, and checkpoint {checkpoints_dir(tmp_path / 'run')}"
        f"/{step_name(4)} says that it started from {phases.pretrain.run.run_dir} ({phases.pretrain.last}); "
        f"checkpoint.init_from={phases.pretrain.run.run_dir} works"
    ) in str(refused.failure.error)
    moved = go_on(init_from(source))
    assert moved.exit_code == 0, f"the same checkpoint in another place: {moved.failure}"


def test_a_damaged_checkpoint_is_refused_by_file_with_the_one_to_name_instead_and_nothing_is_changed_there(
    small_run: Path, source: Path, tmp_path: Path
) -> None:
    shard = checkpoints_dir(source) / step_name(6) / "shards" / "rank-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    before = everything_in(source)
    trace = run_and_trace(make_run(small_run, tmp_path / "run", *DP2, init_from(source)))
    assert trace.exit_code == 76 and trace.failure is not None and not trace.losses
    message = str(trace.failure.error)
    assert f"the checkpoint to start from is damaged, and was not changed: {shard} has hash " in message
    assert f"checkpoint.init_from={checkpoints_dir(source) / step_name(3)} names the one before" in message
    assert everything_in(source) == before


def test_ranks_that_another_program_started_refuse_what_the_starting_process_would_have(
    small_run: Path, tmp_path: Path
) -> None:
    trace = run_and_trace(make_run(small_run, tmp_path / "run", *DP2, init_from(tmp_path / "nowhere")))
    assert trace.exit_code == 2 and trace.failure is not None
    assert f"checkpoint.init_from ({tmp_path / 'nowhere'}) must be a checkpoint's folder" in str(trace.failure.error)
