"""A run that reads altered tokens ends, and says which; a checkpoint says how much of its data was compared."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from fanal.run_folder import DATA, checkpoints_dir, step_name
from pretrain.__main__ import cli
from pretrain.data.position import read_position
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import DP2
from tests.unit.data.shards import copy_shard
from tokenizer.shards.shard import open_shard

STEPS = ("train.train_steps=3", "data.validation=[]")


def test_a_run_on_a_shard_whose_every_token_changed_ends_with_76_and_without_a_checkpoint(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    prefix = copy_shard(data_folder / "shards" / "train-prose", tmp_path / "altered")
    tokens = np.fromfile(f"{prefix}.bin", open_shard(prefix).dtype)
    (tokens ^ 1).tofile(f"{prefix}.bin")
    sources = f"data.train=[{{prefix: {data_folder}/shards/train-code}}, {{prefix: {prefix}}}]"
    run = make_run(small_run, tmp_path / "run", *STEPS, "train.train_steps=40", sources, *DP2)
    trace = run_and_trace(run)
    assert trace.exit_code == 76 and trace.failure is not None
    assert f"{prefix}.bin block 0 (bytes 0 to {2 * len(tokens) - 1}, documents 0 to " in str(trace.failure)
    assert len(trace.losses) < 40 and not list(checkpoints_dir(run.run_dir).glob("*"))


def test_comparing_changes_no_bit_of_a_run_and_its_checkpoint_says_what_was_compared(
    small_run: Path, tmp_path: Path
) -> None:
    traces, positions = [], []
    for name, verify in (("compared", ()), ("claimed", ("data.verify=null",))):
        run = make_run(small_run, tmp_path / name, *STEPS, *verify)
        traces.append(run_and_trace(run))
        assert traces[-1].exit_code == 0, traces[-1].failure
        positions.append(read_position(checkpoints_dir(run.run_dir) / step_name(3) / DATA))
    compared, claimed = positions
    assert (traces[0].losses, traces[0].grad_norms) == (traces[1].losses, traces[1].grad_norms)
    assert [found.num_tokens for found in compared.verified] == [source.num_tokens for source in compared.sources]
    assert [found.num_tokens for found in claimed.verified] == [0, 0]
    assert compared == claimed, "the same data"
    tokens = sum(source.num_tokens for source in compared.sources)
    for name, figure in (("compared", f"{tokens:,}"), ("claimed", "0")):
        said = CliRunner().invoke(cli, ["verify", str(tmp_path / name)])
        assert f"training data: {figure} of {tokens:,} tokens were compared with" in said.output, said.output
