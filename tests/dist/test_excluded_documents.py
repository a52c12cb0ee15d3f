"""A run goes on from a checkpoint with a shard from which documents were removed, and reads no token of them from there on."""

import shutil
from pathlib import Path

from fanal.run_folder import DATA, checkpoints_dir, step_name
from pretrain.config.schema import RunConfig
from pretrain.data.forensics import SamplePlace, sample_places
from pretrain.data.position import read_position
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from tests.dist.harness import assert_same_training, make_run, run_and_trace
from tokenizer.shards.exclude import exclude
from tokenizer.shards.excluded_list import read_excluded
from tokenizer.shards.manifest import read_manifest
from tokenizer.shards.selection import Selection
from tokenizer.shards.shard import open_shard

BATCH, BEFORE, IN_ALL = 8, 3, 8
STEPS = ("data.validation=[]", f"train.global_batch_size={BATCH}", "checkpoint.interval=1", "data.verify=null")


def read_in(run: RunConfig, first_step: int, end_step: int) -> list[tuple[Path, range]]:
    """The shard and the documents of each sample of these steps."""
    data = TrainData(open_sources(run), run.data)
    places = sample_places(data, first_sample=BATCH * first_step, num_samples=BATCH * (end_step - first_step))
    assert all(isinstance(place, SamplePlace) for place in places)
    return [(Path(place.source), range(place.first_document, place.last_document + 1)) for place in places]  # type: ignore[union-attr]


def test_the_next_phase_reads_the_new_shard_and_no_removed_document(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    old, new = data_folder / "shards" / "train-prose", tmp_path / "prose-without"
    sources = (f"data.train=[{{prefix: {old}}}]", *STEPS)
    before = make_run(small_run, tmp_path / "run", *sources, f"train.train_steps={BEFORE}")
    assert run_and_trace(before).exit_code == 0

    removed = sorted({document for _, documents in read_in(before, 0, BEFORE) for document in documents})[::2]
    (tmp_path / "list").write_text("".join(f"{document}\n" for document in removed))
    manifest = exclude(old, new, Selection(lists=[tmp_path / "list"]), reason="request 17").manifest
    (gone,) = read_excluded(new, manifest)
    assert list(gone.documents) == removed, "half of what the first steps read"

    shutil.copytree(before.run_dir, tmp_path / "in place")
    swapped = (f"data.train=[{{prefix: {new}}}]", *STEPS, f"train.train_steps={IN_ALL}")
    refused = run_and_trace(make_run(small_run, tmp_path / "in place", *swapped), fresh=False)
    assert refused.exit_code == 2, "the first steps read the old shard"
    assert f"add it to data.phases with start_sample={BATCH * BEFORE}" in str(refused.failure) + refused.output

    phase = (
        *sources,
        f"data.phases=[{{start_sample: {BATCH * BEFORE}, train: [{{prefix: {new}}}]}}]",
        f"train.train_steps={IN_ALL}",
    )
    after = make_run(small_run, tmp_path / "run", *phase)
    continued = run_and_trace(after, fresh=False)
    whole = run_and_trace(make_run(small_run, tmp_path / "whole", *phase))
    assert_same_training(continued, whole, loss=0.0, grad_norm=0.0)

    stay = [number for number in range(open_shard(old).num_documents) if number not in removed]
    assert {prefix for prefix, _ in read_in(after, 0, BEFORE)} == {old}, "the past is answered as it was"
    later = read_in(after, BEFORE, IN_ALL)
    assert {prefix for prefix, _ in later} == {new}
    first = later[0][1][0]
    assert open_shard(new).document(first).tolist() == open_shard(old).document(stay[first]).tolist()
    position = read_position(checkpoints_dir(after.run_dir) / step_name(IN_ALL) / DATA)
    identities = [read_manifest(prefix).bin_sha256 for prefix in (old, new)]
    assert [source.identity for source in position.sources] == identities
    assert [[share.identity for share in phase.sources] for phase in position.phases] == [[one] for one in identities]
    assert gone.exclusion.from_bin_sha256 == identities[0], "from the manifests alone: which phase removed what"
