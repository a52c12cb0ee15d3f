"""Numbers that no run has: refused at once, before anything loops over them or is made of them."""

import re
import time
from pathlib import Path

import pytest

from pretrain.config.load import load_run
from pretrain.config.number_rules import LARGEST, POSITIVE, size_problem
from pretrain.config.schema import ModelConfig
from pretrain.inspect.show import consequences
from tests.unit.config.test_rules import CONFIG

TOO_LARGE = [f"{room}.{name}" for room, names in LARGEST.items() for name in names]
TOO_SMALL = [f"{room}.{name}" for room, names in POSITIVE.items() for name in names] + [
    "model.rotary_base",
    "model.local_rotary_base",
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def recommended(message: str) -> str:
    """The value that a message says works."""
    return message.rpartition("; ")[2].removesuffix(" works").rpartition(" ")[2].removesuffix(",")


@pytest.mark.parametrize("key", TOO_LARGE)
@pytest.mark.parametrize("value", ["1000000000000000000", "9" * 4000])
def test_a_size_that_no_machine_has_is_refused_at_once_with_one_that_works(key: str, value: str, config: Path) -> None:
    if key in ("train.validation_samples", "optim.lr_warmup_samples", "optim.lr_decay_samples") and len(value) == 19:
        value = "5" + value[1:]  # above 2**62
    started = time.process_time()
    with pytest.raises(ValueError, match=re.escape(key)) as caught:
        load_run(config, [f"{key}={value}"])
    assert time.process_time() - started < 5
    assert (
        "must be at most" in str(caught.value)
        or "must give" in str(caught.value)
        or "finite number" in str(caught.value)
    )
    assert len(str(caught.value)) < 400
    works = re.sub("^.*=", "", recommended(str(caught.value)))
    load_run(config, [f"{key}={works}"])


@pytest.mark.parametrize("key", TOO_SMALL)
@pytest.mark.parametrize("value", ["0", "-" + "9" * 400])
def test_the_number_recommended_for_one_that_is_too_small_works(key: str, value: str, config: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{key} (")) as caught:
        load_run(config, [f"{key}={value}"])
    load_run(config, [f"{key}={recommended(str(caught.value))}"])


def test_a_base_of_the_rotary_embedding_has_the_usual_one_recommended(config: Path) -> None:
    with pytest.raises(ValueError, match=r"model.rotary_base \(-1.0\) must be at least 1, .*; 10000.0 works"):
        load_run(config, ["model.rotary_base=-1"])


@pytest.mark.parametrize("key", ["train.seed", "data.seed"])
def test_a_seed_of_more_than_64_bits_is_refused(key: str, config: Path) -> None:
    for value in (2**63, -(2**63) - 1, 10**300):
        with pytest.raises(
            ValueError, match=rf"{key} \(.*\) must be a 64-bit integer, at most 9223372036854775807; 42 works"
        ):
            load_run(config, [f"{key}={value}"])
    load_run(config, [f"{key}={2**63 - 1}"])
    load_run(config, [f"{key}={-(2**63)}"])


def test_two_wrong_numbers_are_named_one_after_the_other(config: Path) -> None:
    wrong = [f"{key}=0" for key in TOO_SMALL]
    started = time.process_time()
    with pytest.raises(ValueError, match=r"model.num_layers \(0\) must be above 0"):
        load_run(config, wrong)
    assert time.process_time() - started < 5, "what is recommended is not looked for in all combinations"


def test_samples_and_tokens_that_no_64_bit_number_counts_are_refused(config: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train.train_steps \(4000000000000000000\) gives .* samples .*; train.train_steps=\d+ works"
    ) as caught:
        load_run(config, ["train.train_steps=4000000000000000000"])
    run = load_run(config, [recommended(str(caught.value))])
    assert run.train.train_steps * run.train.global_batch_size * run.data.seq_length < 2**63


def test_a_ramp_of_too_many_stages_is_refused(config: Path) -> None:
    ramp = ["train.global_batch_size=1000000000", "train.batch_ramp={start: 2, increment: 2, samples: 100000000000}"]
    with pytest.raises(
        ValueError,
        match=r"in 499,999,999 stages, and must have at most 10,000; train.batch_ramp.increment=999999998 works",
    ):
        load_run(config, ramp)
    load_run(config, [*ramp, "train.batch_ramp.increment=999999998"])


def test_what_follows_from_the_largest_sizes_is_there_at_once(config: Path) -> None:
    largest = [f"model.{name}={value}" for name, value in LARGEST["model"].items()]
    started = time.process_time()
    rows = consequences(load_run(config, [*largest, "data.seq_length=2147483647"]))
    assert time.process_time() - started < 5
    assert rows["parameters"].startswith("180,676,254,296,750,")


def test_the_size_of_a_model_is_checked_wherever_it_comes_from() -> None:
    model = ModelConfig(
        num_layers=0, hidden_size=8, ffn_hidden_size=8, num_attention_heads=1, num_query_groups=1, vocab_size=8
    )
    assert size_problem(model) == "num_layers (0) must be from 1 to 10,000"


@pytest.mark.parametrize(
    "text", ["run_dir: ${oc.env:STORE}", "data: {train: [{prefix: a, domain: '${oc.env:STORE}'}]}"]
)
def test_a_byte_that_is_not_utf_8_is_refused_in_any_text(
    text: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", "a\udcffb")
    key, _, _ = text.partition(":")
    config.write_text("\n".join(line for line in CONFIG.splitlines() if not line.startswith(key)) + "\n" + (
        text if key == "run_dir" else "data: {tokenizer: t, seq_length: 64, train: [{prefix: a, domain: '${oc.env:STORE}'}]}"
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"\('a\\udcffb'\) must not hold a byte that is not UTF-8; 'ab' works"):
        load_run(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (r'run_dir="a\0b"', r"run_dir \('a\\x00b'\) must not hold a NUL character; 'ab' works"),
        (r'data.train=[{prefix: "a\0b"}]', r"data.train\[0\].prefix \('a\\x00b'\) must not hold a NUL character; 'ab' works"),
        (r'data.train=[{prefix: a, domain: "x\ny"}]', r"data.train\[0\].domain \('x\\ny'\) must not hold a control character; 'xy' works"),
        (r'checkpoint.init_from="\e[2J"', r"checkpoint.init_from \('\\x1b\[2J'\) must not hold a control character; '\[2J' works"),
    ],
)  # fmt: skip
def test_a_control_character_is_refused_in_any_text(override: str, message: str, config: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_run(config, [override])


@pytest.mark.parametrize(
    "key", ["optim.lr", "optim.min_lr", "optim.weight_decay", "optim.adam_eps", "model.init_method_std"]
)
def test_a_factor_beyond_single_precision_is_refused_with_one_that_works(key: str, config: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{key} (1e+300) must be at most 1e+30; ")) as caught:
        load_run(config, [f"{key}=1e300"])
    load_run(config, [f"{key}={recommended(str(caught.value))}"])
