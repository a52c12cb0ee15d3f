"""What a run may begin with, as far as it is decided before a rank is started; and the record of it."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fanal.run_folder import COMPLETE, CONFIG, DATA, MANIFEST, ORIGIN, TENSORS, checkpoints_dir, step_name
from pretrain.__main__ import cli
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, Manifest, describe, manifest_bytes, seal_text
from pretrain.checkpoint.disk.origin import Origin, chain, origin_text, read_origin
from pretrain.checkpoint.disk.retention import set_aside
from pretrain.checkpoint.loading.init_from import check_same_origin
from pretrain.config.load import load_run
from pretrain.data.position import read_position
from pretrain.inspect.show import consequences
from tests.dist.harness import make_run, run_and_trace
from tests.runs.files import files_below

NO_WARMUPS = "optim.ademamix_alpha_warmup_steps=0", "optim.ademamix_beta3_warmup_steps=0"
RANKS_STARTED = 70
"""Exit code where the ranks would have been started."""
ORIGIN_RECORD = Origin(
    init_from="runs/first", init_optimizer="fresh", checkpoint="/disk/runs/first/checkpoints/step-00000007", manifest_sha256="0" * 64,
    step=7, consumed_samples=14, consumed_tokens=28, data=None, origin=None,
)  # fmt: skip


@pytest.fixture(scope="session")
def two_steps(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one rank with a checkpoint after each of its two steps. Not to be changed."""
    folder = tmp_path_factory.mktemp("two-steps")
    overrides = ("train.train_steps=2", "checkpoint.interval=1", "data.validation=[]", "optim.lr_warmup_samples=0")
    trace = run_and_trace(make_run(small_run, folder, *overrides))
    assert trace.exit_code == 0, trace.failure
    return folder


@pytest.fixture
def source(two_steps: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    shutil.copytree(checkpoints_dir(two_steps), checkpoints_dir(tmp_path / "source"))
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch: pytest.MonkeyPatch, two_steps: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("ranks were started")

    monkeypatch.setattr("pretrain.parallel.local.run_local_ranks", refuse)


def init_from(folder: Path) -> str:
    return f"checkpoint.init_from={folder}"


def sealed_again(checkpoint: Path) -> Path:
    """Make a changed folder whole as it is."""
    paths = [path for path in files_below(checkpoint) if path not in (MANIFEST, COMPLETE)]
    content = manifest_bytes(Manifest(step=2, files=tuple(describe(checkpoint, path) for path in paths)))
    (checkpoint / MANIFEST).write_bytes(content)
    (checkpoint / COMPLETE).write_text(seal_text(content))
    return checkpoint


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{old} is not in {path}"
    path.write_text(text.replace(old, new))


def start(small_run: Path, run_dir: Path, *overrides: str) -> Result:
    """The command, as far as it comes without ranks."""
    return CliRunner().invoke(cli, ["train", str(small_run), f"run_dir={run_dir}", *overrides])


def test_another_shape_or_tokenizer_is_refused_by_name(small_run: Path, source: Path, tmp_path: Path) -> None:
    last = checkpoints_dir(source) / step_name(2)
    sha256 = read_position(last / DATA).tokenizer_sha256
    edit(last / DATA, sha256, "0" * 64)
    sealed_again(last)
    shape = (
        "model.num_layers=8",
        "model.kv_channels=8",
        "model.make_vocab_size_divisible_by=100",
        "model.rotary_base=5",
    )
    result = start(small_run, tmp_path / "run", init_from(source), *shape)
    assert result.exit_code == 2, result.output
    assert (
        f"error: checkpoint.init_from ({source}) must have the model's shape and its tokenizer, but differs in model.num_layers "
        "(checkpoint 4, config 8); model.make_vocab_size_divisible_by (checkpoint 2048 rows in memory, config 2000 rows in "
        f"memory); the tokenizer (checkpoint sha256 000000000000, config data.tokenizer {small_run.parent}/tokenizer "
        f"{sha256[:12]}): use the checkpoint's values with "
    ) in result.output, (
        "8 channels a head are what follows in the checkpoint too, and the rotary base may be another one"
    )


def test_a_path_that_is_no_run_is_refused(small_run: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for path, found in (
        (tmp_path / "sourec", "it does not exist"),
        (tmp_path / "file", "it is not a folder"),
        (tmp_path / "empty", "it has none"),
    ):
        result = start(small_run, tmp_path / "run", init_from(path))
        assert result.exit_code == 2, result.output
        assert (
            f"error: checkpoint.init_from ({path}) must be a checkpoint's folder, or a run's folder with one in it; {found}"
            in result.output
        )
        assert f"Runs beside it: {source}; " in result.output
    result = start(small_run, tmp_path / "run", init_from(tmp_path / "run"))
    assert result.exit_code == 2 and "must be a checkpoint of another run than run_dir" in result.output


def test_once_a_run_has_a_checkpoint_of_its_own_the_path_is_not_looked_at(small_run: Path, source: Path) -> None:
    assert start(small_run, source, init_from(source / "nowhere")).exit_code == RANKS_STARTED


def test_a_run_that_has_not_ended_must_be_named_by_its_checkpoint(
    small_run: Path, source: Path, tmp_path: Path
) -> None:
    shutil.rmtree(checkpoints_dir(source) / step_name(2))
    step_1 = checkpoints_dir(source) / step_name(1)
    result = start(small_run, tmp_path / "run", init_from(source))
    assert result.exit_code == 2, result.output
    assert (
        f"is a run that is at step 1 of 2: train it to its end, or name its checkpoint to start from it as it is; checkpoint.init_from={step_1} works"
        in result.output
    )
    assert start(small_run, tmp_path / "run", init_from(step_1)).exit_code == RANKS_STARTED


def test_states_that_are_not_there_cannot_be_kept(small_run: Path, source: Path, tmp_path: Path) -> None:
    last = checkpoints_dir(source) / step_name(2)
    edit(last / TENSORS, '["param", "exp_avg", "exp_avg_sq"]', '["param"]')
    result = start(small_run, tmp_path / "run", init_from(sealed_again(last)))
    assert result.exit_code == 2, result.output
    assert (
        "checkpoint.init_optimizer (keep) needs exp_avg and exp_avg_sq of AdamW (optim.name=adamw), and "
        f"{last} holds only weights; checkpoint.init_optimizer=fresh works"
    ) in result.output


def test_states_of_another_optimizer_cannot_be_kept_whatever_their_names(
    small_run: Path, source: Path, tmp_path: Path
) -> None:
    last = checkpoints_dir(source) / step_name(2)
    edit(last / CONFIG, "\n  name: adamw\n", "\n  name: of_tomorrow\n")
    result = start(small_run, tmp_path / "run", init_from(sealed_again(last)))
    assert result.exit_code == 2, result.output
    assert (
        f"and {last} holds exp_avg and exp_avg_sq of optim.name=of_tomorrow, of which it can keep nothing; ch"
        in result.output
    )
    fresh = start(small_run, tmp_path / "run", init_from(last), "checkpoint.init_optimizer=fresh")
    assert fresh.exit_code == RANKS_STARTED, fresh.output


def test_an_optimizer_that_has_nothing_in_common_begins_afresh_or_not_at_all(
    small_run: Path, source: Path, tmp_path: Path
) -> None:
    last = checkpoints_dir(source) / step_name(2)
    result = start(small_run, tmp_path / "run", init_from(source), "optim.name=lion")
    assert result.exit_code == 2, result.output
    assert (
        f"checkpoint.init_optimizer (keep) needs exp_avg of Lion (optim.name=lion), and {last} holds exp_avg and exp_avg_sq of "
        "optim.name=adamw, of which it can keep nothing; checkpoint.init_optimizer=fresh works"
    ) in result.output
    for works in (["optim.name=lion", "checkpoint.init_optimizer=fresh"], ["optim.name=ademamix", *NO_WARMUPS]):
        assert start(small_run, tmp_path / "run", init_from(source), *works).exit_code == RANKS_STARTED


def test_a_damaged_or_set_aside_checkpoint_is_refused(small_run: Path, source: Path, tmp_path: Path) -> None:
    step_1, last = (checkpoints_dir(source) / step_name(step) for step in (1, 2))
    (last / COMPLETE).unlink()
    for named in (source, last):
        result = start(small_run, tmp_path / "run", init_from(named))
        assert result.exit_code == 76, result.output
        assert f"was not changed: {last / COMPLETE} cannot be read" in result.output
        assert f"checkpoint.init_from={step_1} names the one before" in result.output
    set_aside(last, ["a test"])
    result = start(small_run, tmp_path / "run", init_from(source))
    assert result.exit_code == 76, result.output
    assert f"was damaged and set aside as {last}.bad ({last.name}.bad.REASON says why)" in result.output
    assert f"checkpoint.init_from={step_1} names the newest that is left" in result.output


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "Expecting value"),
        ('{"init_from": "x"}', "key 'checkpoint' is missing"),
        (json.dumps(asdict(replace(ORIGIN_RECORD, step=True))), "step holds true, expected an integer"),
        (json.dumps(asdict(replace(ORIGIN_RECORD, origin={"step": 1}))), "key origin.'checkpoint' is missing"),
    ],
)  # fmt: skip
def test_an_origin_that_is_no_record_is_damage(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / ORIGIN).write_text(content)
    with pytest.raises(DamagedCheckpointError, match=f"origin.json is not the record of an origin: {problem}"):
        read_origin(tmp_path)


def test_a_chain_of_origins_reads_as_it_was_written(tmp_path: Path) -> None:
    both = replace(ORIGIN_RECORD, step=9, origin=ORIGIN_RECORD)
    (tmp_path / ORIGIN).write_text(origin_text(both))
    assert read_origin(tmp_path) == both and list(chain(both)) == [both, ORIGIN_RECORD]
    (tmp_path / ORIGIN).unlink()
    assert read_origin(tmp_path) is None and not list(chain(None))


@pytest.mark.parametrize(
    ("origin", "overrides", "complaint"),
    [
        (None, [], None),
        (ORIGIN_RECORD, ["checkpoint.init_from=runs/first", "checkpoint.init_optimizer=fresh"], None),
        (None, ["checkpoint.init_from=runs/first"], r"checkpoint.init_from \(runs/first\) must name what the run started from, .* started from initial weights; checkpoint.init_from=null works"),
        (ORIGIN_RECORD, [], r"checkpoint.init_from \(None\) must name what the run started from, .* started from runs/first \(/disk/runs/first/.*\); checkpoint.init_from=runs/first works"),
        (ORIGIN_RECORD, ["checkpoint.init_from=runs/second"], r"checkpoint.init_from \(runs/second\) must name what the run started from, .* started from runs/first "),
        (ORIGIN_RECORD, ["checkpoint.init_from=runs/first"], r"checkpoint.init_optimizer \(keep\) must be as at the start of the run, .* says fresh; checkpoint.init_optimizer=fresh works"),
    ],
)  # fmt: skip
def test_a_run_goes_on_only_under_the_origin_that_it_had(
    origin: Origin | None, overrides: list[str], complaint: str | None, small_run: Path, tmp_path: Path
) -> None:
    run = load_run(small_run, overrides)
    if complaint is None:
        check_same_origin(run, origin, tmp_path)
        return
    with pytest.raises(ValueError, match=complaint):
        check_same_origin(run, origin, tmp_path)


def test_show_says_where_the_weights_come_from(small_run: Path) -> None:
    assert consequences(load_run(small_run))["begins with"] == "initial weights"
    kept = load_run(small_run, ["checkpoint.init_from=runs/first"])
    assert consequences(kept)["begins with"] == "the weights of runs/first, its optimizer kept"
    fresh = load_run(small_run, ["checkpoint.init_from=runs/first", "checkpoint.init_optimizer=fresh"])
    assert consequences(fresh)["begins with"] == "the weights of runs/first, a fresh optimizer"
