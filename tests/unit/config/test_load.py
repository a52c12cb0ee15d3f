"""Reading a run: what is refused, and what the refusal says."""

from pathlib import Path

import pytest

from pretrain.config.load import load_run, to_yaml

MINIMAL = """
run_dir: runs/x
model: {num_layers: 4, hidden_size: 64, ffn_hidden_size: 176, num_attention_heads: 8, num_query_groups: 4, vocab_size: 2000}
data: {tokenizer: t, seq_length: 64, train: [{prefix: a}]}
optim: {lr: 1.0e-3}
train: {train_steps: 10, global_batch_size: 8, micro_batch_size: 2}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def test_what_is_not_chosen_takes_its_default_and_overrides_win(config: Path) -> None:
    run = load_run(config, ["optim.lr=2e-3", "train.train_steps=20", "checkpoint.interval=null"])
    assert run.parallel.tensor_model_parallel_size == 1
    assert (run.optim.lr, run.train.train_steps, run.checkpoint.interval) == (2e-3, 20, None)


def test_values_take_the_type_of_their_field(config: Path) -> None:
    run = load_run(config, ["optim.lr=1", "train.train_steps=1_000", "run_dir=5", "log.tensorboard=no"])
    assert (run.optim.lr, run.train.train_steps, run.run_dir, run.log.tensorboard) == (1.0, 1000, "5", False)
    assert isinstance(run.optim.lr, float)


def test_an_override_of_a_list_replaces_it_whole(config: Path) -> None:
    run = load_run(config, ["data.train=[{prefix: b, weight: 2}, {prefix: c}]"])
    assert [(source.prefix, source.weight) for source in run.data.train] == [("b", 2.0), ("c", None)]


def test_an_optional_value_in_the_file_can_be_taken_back(config: Path) -> None:
    config.write_text(MINIMAL + "checkpoint: {interval: 5}\nlog: {peak_tflops_per_gpu: 300}\n")
    run = load_run(config, ["checkpoint.interval=null"])
    assert (run.checkpoint.interval, run.log.peak_tflops_per_gpu) == (None, 300.0)


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("parallel: {tensor_parallel_size: 2}", r"parallel.tensor_parallel_size is not a key; did you mean parallel.tensor_model_parallel_size\?"),
        ("learning_rate: 1", "learning_rate is not a key; known here: run_dir, model, data"),
        ("log: {seq_length: 3}", r"log.seq_length is not a key; did you mean data.seq_length\?"),
        ("1: 2", "run.yaml: 1 is not a key"),
    ],
)  # fmt: skip
def test_an_unknown_key_in_the_file_is_refused_at_any_depth(config: Path, addition: str, message: str) -> None:
    config.write_text(MINIMAL + addition + "\n")
    with pytest.raises(ValueError, match=message):
        load_run(config)


def test_a_folder_is_not_a_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a YAML file, and it is not a file; these are here: configs/"):
        load_run(tmp_path)


def test_a_later_override_wins(config: Path) -> None:
    assert load_run(config, ["optim.lr=1e-3", "optim.lr=5e-3"]).optim.lr == 5e-3


def test_a_run_is_frozen(config: Path) -> None:
    with pytest.raises(AttributeError):
        load_run(config).optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.train_step=3", "override: train.train_step is not a key; did you mean train.train_steps?"),
        ("modle.num_layers=3", "modle is not a key; did you mean model?"),
        ("train_steps=3", "train_steps is not a key; did you mean train.train_steps?"),
        ("data.train=[{prefx: a}]", r"data.train\[0\].prefx is not a key; did you mean data.train\[0\].prefix?"),
        ("train.batch_ramp={begin: 4}", "train.batch_ramp.begin is not a key; known here: start, increment, samples"),
        ("train_step=3", "train_step is not a key"),
        ("interval=3", r"interval is not a key; did you mean checkpoint.interval\?"),
        ("model.lr=3", r"model.lr is not a key; did you mean optim.lr\?"),
        ("train.train_steps=null", r"train.train_steps \(null\) must be an integer"),
        ("train.train_steps=1.5", "train.train_steps: .*1.5.*Integer"),
        ("train.train_steps=true", "train.train_steps: .*True.*Integer"),
        ("log.tensorboard=maybe", "log.tensorboard: .*maybe.*bool"),
        ("train.precision=null", r"train.precision \(null\) must be one of bf16, fp32"),
        ("model=null", r"model \(null\) must be a mapping; {num_layers: 4} works"),
        ("data.train=[5]", r"data.train\[0\] \(5\) must be a mapping; {prefix: shards/train} works"),
        ("data.train=null", r"data.train \(null\) must be a list; \[{prefix: shards/train}\] works"),
        ("train.batch_ramp={start: 4}", "must choose train.batch_ramp.increment, train.batch_ramp.samples"),
        ("optim.lr=${nowhere}", r"optim.lr: .*nowhere"),
        ("optim.lr=${WORK}", r"optim.lr: .*WORK.*; an environment variable is written \${oc.env:WORK}"),
        ("train.train_steps=many", "train.train_steps: .*many.*Integer"),
        ("train.train_steps=1e9", "train.train_steps: .*write integers with all their digits, such as 1_000_000_000"),
        (
            "train.precision=fp16",
            "train.precision: .*fp16 needs loss scaling, which is not implemented: fp32 works on a GPU without bf16",
        ),
        ("train.precision=fp8", "train.precision: .*fp8.*bf16"),
        ("optim.lr=fast", "optim.lr: .*fast"),
        ("train_steps", "override 'train_steps' must be key=value, such as train.train_steps=100"),
        ("=3", "override '=3' must be key=value"),
        ("data.train=[", "override 'data.train=\\[' is not readable"),
    ],
)
def test_an_override_that_says_nothing_known_is_refused_by_name(config: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run(config, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train={prefix: a, weight: 1}", r"data.train \({prefix: a, weight: 1}\) must be a list, .*; \[{prefix: a, weight: 1}\] works"),
        ("data.train[0].prefix=b", r"data.train \(.*\) must be a list, with all of its items; \[{prefix: b}\] works"),
        ("data.phases=[{start_sample: 4, train: {prefix: a}}]", r"data.phases\[0\].train \({prefix: a}\) must be a list"),
        ("model=[1]", r"model \(\[1\]\) must be a mapping; {num_layers: 4} works"),
        ("train.spikes=5", r"train.spikes \(5\) must be a mapping"),
        ("[=1", r"override '\[=1' is not readable"),
    ],
)  # fmt: skip
def test_a_list_and_a_mapping_in_each_other_s_place_are_named(config: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run(config, [override])


def test_a_mapping_in_place_of_a_list_in_the_file_is_named(config: Path) -> None:
    config.write_text(MINIMAL.replace("[{prefix: a}]", "{prefix: a}"))
    with pytest.raises(ValueError, match=r"run.yaml: data.train \({prefix: a}\) must be a list"):
        load_run(config)


def test_an_override_that_is_not_utf_8_is_refused(config: Path) -> None:
    with pytest.raises(ValueError, match=r"override 'run_dir=a\\udcff' must be UTF-8") as caught:
        load_run(config, ["run_dir=a\udcff"])
    assert not isinstance(caught.value, UnicodeError), "which would be a crash and no mistake of the user's"


def test_an_unknown_key_in_the_file_is_refused_with_the_file_s_name(config: Path) -> None:
    config.write_text(MINIMAL + "optimizer: {lr: 1}\n")
    with pytest.raises(ValueError, match=r"run.yaml: optimizer is not a key; did you mean optim\?"):
        load_run(config)


def test_what_must_be_chosen_is_listed(config: Path) -> None:
    config.write_text(MINIMAL.replace("optim: {lr: 1.0e-3}", "").replace("train_steps: 10, ", ""))
    with pytest.raises(ValueError, match=r"must choose optim\.lr, train\.train_steps; these have no default"):
        load_run(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must be a mapping"),
        ("5\n", "is not readable YAML: Invalid loaded object type: int"),
        ("a: [", "is not readable YAML"),
        ("seed: 1\nseed: 2\n", "is not readable YAML: .*duplicate key seed"),
        ("", "must choose data.seq_length"),
    ],
)
def test_a_file_that_is_no_config_is_refused(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_run(config)


def test_a_missing_file_is_refused_with_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"config tinny.yaml must be a YAML file, and it does not exist; these are here: configs/tiny.yaml",
    ):
        load_run("tinny.yaml")


def test_a_missing_file_is_refused_where_there_is_no_folder_of_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"it does not exist; there is no YAML file in configs/ of this folder$"):
        load_run("tiny.yaml")


def test_the_resolved_tree_reads_back_as_the_same_run(config: Path, tmp_path: Path) -> None:
    run = load_run(config, ["train.batch_ramp={start: 2, increment: 2, samples: 20}"])
    (tmp_path / "resolved.yaml").write_text(to_yaml(run))
    assert load_run(tmp_path / "resolved.yaml") == run
