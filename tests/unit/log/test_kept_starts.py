"""Files of starts, and logs that name them, as an earlier version wrote them (tests/golden/formats/make_starts.py): they are read.

A test that fails here says that what runs of users have noted is lost with this version. Mend the code, not the files.
"""

import json
import shutil
from pathlib import Path

import pytest

from fanal.errors import DamageError
from fanal.json_lines import read_lines
from fanal.run_folder import SPIKES_FILE, STARTS_DIR, start_name
from fanal.run_progress import metrics
from pretrain.config.config_changes import config_changes
from pretrain.config.load import typed
from pretrain.config.schema import RunConfig
from pretrain.log.stamp import last_logged_step
from pretrain.log.start_file import next_start, read_starts
from pretrain.log.summary import summary

KEPT = Path(__file__).parents[2] / "golden" / "formats" / "v3" / "starts"


def test_kept_starts_say_what_they_said() -> None:
    first, second = read_starts(KEPT)
    assert (first.number, first.step, first.consumed_samples, first.changes) == (1, 0, 0, ())
    assert (second.number, second.step, second.consumed_samples) == (2, 6, 48)
    assert second.changes == ("parallel.data_parallel_size: 1 -> 2", "train.global_batch_size: 8 -> 16")
    assert (first.num_ranks, second.num_ranks, second.devices, second.hosts) == (1, 2, {"cpu": 2}, ("n1",))
    assert (second.job, second.origin, second.decay_start_sample, second.code.modified) == ("77", None, None, False)
    assert second.code.commit == "4846b02dbd6150ad45b3675aca4f12ac222f1557"
    assert [(source.prefix, source.num_tokens, source.train_tokens) for source in second.sources] == [
        ("shards/train-code", 25659, 25659), ("shards/train-prose", 8303, 8303),
    ]  # fmt: skip
    assert [source.domain for source in second.validation_sources] == ["code", "prose"]


def test_the_configuration_of_a_kept_start_is_one_of_today() -> None:
    first, second = read_starts(KEPT)
    run = typed([second.config], RunConfig, where="a kept start")
    assert run.train.global_batch_size == 16 and config_changes(second.config, run) == ()
    assert config_changes(first.config, run) == second.changes


def test_a_run_goes_on_behind_kept_lines() -> None:
    assert (next_start(KEPT), last_logged_step(KEPT)) == (3, 10)
    replays = [(record["kind"], record["step"]) for record in metrics(KEPT) if record.get("replay")]
    assert replays == [("step", 7), ("step", 8), ("validation", 8)]
    assert {(spike["start"], spike.get("replay", False), spike["step"] > 8) for spike in read_lines(KEPT / SPIKES_FILE)} <= {
        (1, False, False), (2, True, False), (2, False, True),
    }  # fmt: skip
    assert any(line.startswith("training loss   5.9403 (step 1) -> 5.7964 (step 10)") for line in summary(KEPT)), (
        summary(KEPT)
    )


@pytest.mark.parametrize("number", [1, 2])
def test_a_kept_start_that_was_altered_is_refused(number: int, tmp_path: Path) -> None:
    shutil.copytree(KEPT / STARTS_DIR, tmp_path / STARTS_DIR)
    path = tmp_path / STARTS_DIR / start_name(number)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"user": "eve"}))
    with pytest.raises(DamageError, match="it was altered"):
        read_starts(tmp_path)
