"""What ``fanal show`` says of a run: each figure on a line of its own, in a pipe and in a terminal of 80 columns, of a run that
stands somewhere and of one that does not."""

import io
import itertools
import json
from pathlib import Path

import pytest

from fanal.console import Console
from fanal.run_folder import COMPLETE, CONFIG, STATE, checkpoints_dir, step_name
from pretrain.config.load import load_run, to_yaml
from pretrain.inspect import mixture
from pretrain.inspect.show import consequences, show
from tests.unit.config.test_rules import CONFIG as YAML

CONFIGS = sorted((Path(__file__).parents[3] / "configs").rglob("*.yaml"))


def table_of(console: Console) -> list[str]:
    """The lines below the head of the first table."""
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().partition("━\n")[2].splitlines()
    return list(itertools.takewhile(lambda line: "│" in line and not line.startswith(" source "), lines))


MAY_TAKE_TWO_LINES = {"begins with", "optimizer", "final decay"}
"""Rows that hold a path, the settings of any optimizer, or four large numbers."""


@pytest.mark.parametrize("config", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_what_follows_from_a_shipped_config_fits_into_80_columns(config: Path) -> None:
    run = load_run(config)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    show(run, console)
    lines = table_of(console)
    assert [name for name in consequences(run) if name != "begins with"] == [
        name for line in lines if (name := line.split("│")[0].strip()) and name != "begins with"
    ]
    assert all(len(line) <= 80 for line in lines)
    names = list(itertools.accumulate(lines, lambda name, line: line.split("│")[0].strip() or name, initial=""))[1:]
    assert {name for name in names if names.count(name) > 1} <= MAY_TAKE_TWO_LINES


def test_nothing_is_wrapped_or_cut_in_a_pipe(small_run: Path) -> None:
    origin = "/a/very/long/path" * 20
    run = load_run(small_run, [f"checkpoint.init_from={origin}"])
    console = Console(file=io.StringIO(), width=80)
    show(run, console)
    assert len(table_of(console)) == len(consequences(run))
    assert f"the weights of {origin}, its optimizer kept" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_that_divides_its_sequences_says_what_a_rank_has_of_one(small_run: Path) -> None:
    whole = consequences(load_run(small_run))
    assert whole["ranks"] == "1 (1 per replica; more ranks, more replicas)" and "ranks of a sequence" not in whole
    divided = consequences(load_run(small_run, ["parallel.context_parallel_size=4", "data.seq_length=64"]))
    assert divided["ranks"] == "4 (4 per replica; more ranks, more replicas)"
    assert divided["ranks of a sequence"] == "4, each with 16 of 64 tokens"
    same = ("FLOPs per token", "tokens per step", "microbatches per step and rank", "tokens")
    assert [divided[row] for row in same] == [whole[row] for row in same], "of whole rows"


def shown(config: Path, *overrides: str) -> str:
    """What is printed below the resolved config, on lines that do not wrap."""
    console = Console(file=io.StringIO(), width=400)
    show(load_run(config, overrides), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().split("what follows")[1]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(YAML.replace("runs/x", str(tmp_path / "run")))
    return path


def resumes_at(config: Path, step: int, consumed_samples: int, **more: int) -> None:
    folder = checkpoints_dir(config.parent / "run") / step_name(step)
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(to_yaml(load_run(config)))
    (folder / STATE).write_text(json.dumps({"step": step, "consumed_samples": consumed_samples, **more}))
    (folder / COMPLETE).write_text("")


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.split("│")[0].strip() == name]
    return line.split("│")[1].strip()


def test_the_figures_of_a_new_run_are_steps_times_batch(config: Path) -> None:
    text = shown(config)
    assert (row(text, "steps"), row(text, "samples"), row(text, "tokens")) == ("10", "80", "5,120")
    assert row(text, "warm-up").endswith("of 80 samples") and "at the resume" not in text


def test_the_layers_of_every_pipeline_stage_are_shown(config: Path) -> None:
    assert "layers of the stages" not in shown(config)
    stages = ("parallel.pipeline_model_parallel_size=4", "model.num_layers=8")
    assert row(shown(config, *stages), "layers of the stages") == "4 x 2"
    assert row(shown(config, *stages, "parallel.pipeline_layers=[1,3,3,1]"), "layers of the stages") == "1 + 2 x 3 + 1"


def test_stages_and_the_final_decay_have_a_row_each(config: Path) -> None:
    stages = "train.batch_stages=[{start_sample: 20, global_batch_size: 16}, {start_sample: 72, global_batch_size: 32}]"
    decay = ("optim.lr_decay_style=constant", "optim.lr_wsd_decay_samples=64")
    text = shown(config, stages, *decay)
    # 3 steps of 8, 3 of 16, 4 of 32
    assert row(text, "batch stages") == (
        "16 samples (1,024 tokens) from sample 20, after step 3; 32 samples (2,048 tokens) from sample 72, after step 6"
    )
    assert row(text, "tokens per step") == "2,048 (from 512 at the start)" and row(text, "samples") == "200"
    assert row(text, "final decay") == "linear, 64 samples, on request"
    text = shown(config, stages, *decay, "optim.lr_wsd_decay_start_sample=40")
    assert row(text, "final decay") == "linear, from sample 40 to 104, after step 4 to 7"
    assert (row(text, "steps"), row(text, "samples")) == ("7", "104")
    text = shown(config, *decay, "optim.lr_wsd_decay_start_sample=40")
    assert (
        row(text, "final decay")
        == "linear, from sample 40 to 104, after step 5 to 13; the run ends before, with step 10"
    )


def test_the_figures_of_a_run_whose_decay_has_begun_end_with_it(config: Path) -> None:
    resumes_at(config, 6, 48, decay_start_sample=48)
    text = shown(config, "optim.lr_decay_style=constant", "optim.lr_wsd_decay_samples=16", "train.train_steps=100")
    assert row(text, "steps") == "8 (6 done, with 48 samples)" and row(text, "samples") == "64"
    assert row(text, "final decay") == "linear, from sample 48 to 64, to step 8"
    later = ("optim.lr_wsd_decay_start_sample=56",)
    text = shown(
        config, "optim.lr_decay_style=constant", "optim.lr_wsd_decay_samples=16", "train.train_steps=100", *later
    )
    assert row(text, "steps") == "8 (6 done, with 48 samples)", "the decay that has begun counts"


def test_the_figures_of_a_run_that_resumes_count_what_it_did_with_another_batch(config: Path) -> None:
    resumes_at(config, 8, 64)
    text = shown(config, "train.train_steps=16", "train.global_batch_size=4")
    assert row(text, "steps") == "16 (8 done, with 64 samples)"
    assert (row(text, "samples"), row(text, "tokens")) == ("96", "6,144")
    assert row(text, "warm-up").endswith("of 96 samples")
    assert row(text, "at the resume").endswith("ended at 80); optim.lr_decay_samples=80 keeps that schedule")


def test_a_resume_that_changes_nothing_has_no_line_of_its_own(config: Path) -> None:
    resumes_at(config, 8, 64)
    assert "at the resume" not in shown(config)


def test_the_passes_over_each_source_are_shown_and_too_many_are_said(small_run: Path) -> None:
    text = shown(small_run, "train.train_steps=2000")
    (code,) = [line for line in text.splitlines() if "train-code " in line and "│" in line]
    assert float(code.split("│")[3]) > 4
    assert "warning: the run reads " in text and "warning" not in shown(small_run)


def test_sources_that_are_not_on_this_machine_are_no_error(config: Path) -> None:
    assert "passes over the sources: not known: data.tokenizer (t) must be the folder of a tokenizer" in shown(config)


def test_of_many_sources_the_table_has_those_that_are_read_most(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "MOST_SOURCES", 1)
    console = Console(file=io.StringIO())
    show(load_run(small_run), console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    rows = [line for line in said.splitlines() if "│" in line and "/shards/train-" in line]
    assert len(rows) == 1 and "and 1 more sources, none read more often than these" in said


@pytest.mark.parametrize(
    ("overrides", "window"),
    [
        ([], None),
        (["model.sliding_window=16"], "16 positions, in 4 of 4 layers"),
        (["model.sliding_window=63", "model.full_attention_layer_interval=2"], "63 positions, in 2 of 4 layers"),
        (["model.sliding_window=64"], "64 positions, in 4 of 4 layers; hides nothing of a sample"),
        (["model.sliding_window=4096"], "4,096 positions, in 4 of 4 layers; hides nothing of a sample"),
    ],
)
def test_a_window_is_shown_with_its_layers_and_whether_a_sample_is_longer(
    overrides: list[str], window: str | None, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    assert consequences(load_run(tmp_path / "run.yaml", overrides)).get("window") == window


def test_memory_and_checkpoints_have_a_row_each_by_the_planner_s_arithmetic() -> None:
    rows = consequences(load_run("configs/lucie-7b/pretrain-fast.yaml"))
    assert rows["memory of a rank, planned"] == "54.23 GiB at the peak"
    assert rows["checkpoint"] == "80.5 GB, 520 files; up to 151 at once"
    stages = consequences(load_run("configs/lucie-7b/pretrain.yaml"))["memory of a rank, planned"]
    assert stages.endswith(" GiB at the peak of stage 0 of 4")


def test_the_mixture_is_shown_by_phase_and_its_passes_add_up(small_run: Path, tmp_path: Path) -> None:
    run = load_run(small_run)
    code, prose = (source.prefix for source in run.data.train)
    steps = run.train.train_steps
    assert steps is not None
    half = steps * run.train.global_batch_size // 2
    path = tmp_path / "phases.yaml"
    text = to_yaml(run).replace(
        "  phases: []\n",
        f"  phases:\n  - start_sample: {half}\n    train:\n    - prefix: {prose}\n      weight: 1.0\n",
    )
    path.write_text(text)
    said = shown(path)
    rows = [[cell.strip() for cell in line.split("│")] for line in said.splitlines() if "│" in line and "%" in line]
    assert [row[0] for row in rows if row[0]] == ["0", f"{half:,}"]
    assert rows[-1][2] == "100.0%" and rows[-1][1] == prose
    totals = {line.split("│")[0].strip(): float(line.split("│")[3]) for line in said.splitlines() if "shards/train-" in line
              and line.count("│") == 3 and "%" not in line}  # fmt: skip
    for prefix in (code, prose):
        assert sum(float(row[3]) for row in rows if row[1] == prefix) == pytest.approx(totals[prefix], rel=0.02)
    assert "from sample" not in shown(small_run), "one phase has no table of its own"
