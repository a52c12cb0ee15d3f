"""Rules of objective: what is refused, and that the value which a message names works."""

import re
from pathlib import Path

import pytest

from fanal.errors import UserError
from pretrain.config.load import load_run, to_yaml
from pretrain.config.schema import GoldfishConfig, MaskedSpanConfig, ObjectiveConfig
from tests.unit.config.test_rules import CONFIG

MIDDLE, SPANS = "objective.fill_in_the_middle", "objective.span_corruption"
CASES = {
    "every token dropped": (["objective.goldfish={k: 1}"], "objective.goldfish.k (1) must be from 2", ["objective.goldfish.k=50"]),
    "more context than a sample": (
        ["objective.goldfish={h: 65}"], "objective.goldfish.h (65) must be from 1 to data.seq_length (64)", ["objective.goldfish.h=50"],
    ),
    "no context": (["objective.goldfish={h: 0}"], "objective.goldfish.h (0) must be from 1", ["objective.goldfish.h=50"]),
    "a short sample": (
        ["objective.goldfish={}", "data.seq_length=32"], "objective.goldfish.h (50) must be from 1 to data.seq_length (32)",
        ["objective.goldfish.h=32"],
    ),
    "no middles": ([f"{MIDDLE}={{rate: 0}}"], f"{MIDDLE}.rate (0.0) must be a share, above 0 and at most 1", [f"{MIDDLE}.rate=0.5"]),
    "no number": ([f"{MIDDLE}={{rate: .nan}}"], f"{MIDDLE}.rate (nan) must be a share", [f"{MIDDLE}=null"]),
    "more than all": ([f"{MIDDLE}={{spm_rate: 1.5}}"], f"{MIDDLE}.spm_rate (1.5) must be a share", [f"{MIDDLE}.spm_rate=0.5"]),
    "one mark for two": (
        [f"{MIDDLE}={{middle_token: <fim_prefix>}}"], "these must be three different tokens", [f"{MIDDLE}.middle_token=<fim_middle>"],
    ),
    "no spans": ([f"{SPANS}={{rate: -1}}"], f"{SPANS}.rate (-1.0) must be a share", [f"{SPANS}.rate=0.5"]),
    "all noise": ([f"{SPANS}={{noise_density: 1}}"], f"{SPANS}.noise_density (1.0) must be above 0", [f"{SPANS}.noise_density=0.15"]),
    "short spans": ([f"{SPANS}={{mean_span_length: 0.5}}"], f"{SPANS}.mean_span_length (0.5) must", [f"{SPANS}.mean_span_length=3"]),
    "endless spans": ([f"{SPANS}={{mean_span_length: .inf}}"], f"{SPANS}.mean_span_length (inf)", [f"{SPANS}.mean_span_length=3"]),
    "no sentinel": ([f"{SPANS}={{num_sentinels: 0}}"], f"{SPANS}.num_sentinels (0) must be from 1", [f"{SPANS}.num_sentinels=100"]),
    "one sentinel for all": (
        [f"{SPANS}={{sentinel_token: <mask>}}"], "must hold {} once", [f'{SPANS}.sentinel_token="<extra_id_{{}}>"'],
    ),
    "more spans than sentinels": (
        [f"{SPANS}={{num_sentinels: 2}}"], f"{SPANS}.num_sentinels (2) must be at least 3, the spans of a sample",
        [f"{SPANS}.num_sentinels=3"],
    ),
    "more documents than there are": (
        [f"{MIDDLE}={{rate: 0.7}}", f"{SPANS}={{rate: 0.4}}"], "must add up to at most 1", [f"{MIDDLE}.rate=0.5", f"{SPANS}.rate=0.5"],
    ),
    "a span of one token": (
        ["objective.mask_between=[{start_token: a, end_token: a}]"], "objective.mask_between[0].end_token ('a') must be another",
        ["objective.mask_between=[]"],
    ),
    "moved spans": (
        ["objective.mask_between=[{start_token: a, end_token: b}]", f"{MIDDLE}={{}}"],
        "objective.mask_between (1 pairs) must be empty with objective.fill_in_the_middle", ["objective.mask_between=[]"],
    ),
    "spans without an end": (
        ["objective.mask_between=[{start_token: a}]"], "must choose objective.mask_between[0].end_token", None,
    ),
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("name", CASES)
def test_an_objective_that_no_sample_can_have_is_refused_with_one_that_works(name: str, config: Path) -> None:
    broken, message, works = CASES[name]
    with pytest.raises(UserError) as caught:
        load_run(config, broken)
    assert message in str(caught.value)
    for override in works or ():
        value = override.partition("=")[2].strip('"')
        assert re.search(rf"(?<![\w.]){re.escape(value)}(?!\w)", str(caught.value)), str(caught.value)
    if works is not None:
        load_run(config, [*broken, *works])


def test_every_objective_is_off_unless_it_is_stated_and_a_stated_one_is_written_and_read_again(
    config: Path, tmp_path: Path
) -> None:
    assert load_run(config).objective == ObjectiveConfig() == ObjectiveConfig(eod_mask_loss=False, mask_between=[])
    run = load_run(
        config, ["objective.goldfish={k: 4}", "objective.mask_between=[{start_token: \"a: b\", end_token: '[/x]'}]"]
    )
    assert run.objective.goldfish == GoldfishConfig(k=4, h=50)
    assert run.objective.mask_between == [MaskedSpanConfig(start_token="a: b", end_token="[/x]")]
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(run))
    assert load_run(again) == run
