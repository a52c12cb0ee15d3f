"""``fanal plan --ladder``: the rungs that it writes, and what their finished runs say of the large run."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.ladder_laws import COMPUTE, HOFFMANN
from launch.planning.command import plan as command
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_batch_size, last_step
from pretrain.log.start_file import Code as StartCode
from pretrain.log.start_file import StartFile, StartSource, read_start, write_start_file
from pretrain.model.families import family_of
from pretrain.plan import ladder_files
from pretrain.plan.ladder import PARTS, size_of
from pretrain.plan.law import Law

CONFIG = "configs/1b.yaml"


def planned(*words: str | int | Path, code: int = 0) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("written") / "ladder"
    return folder, json.loads(planned(CONFIG, "--ladder", folder, "--gpus", "8", "--gpu", "h100", "--json"))


def test_the_rungs_are_configs_of_the_same_family_with_as_many_tokens_a_parameter(written: Any) -> None:
    folder, tree = written
    run, files = load_run(CONFIG), sorted(folder.glob("*.yaml"))
    assert [file.stem for file in files] == [one["name"] for one in tree["rungs"]] and len(files) == len(PARTS)
    own, sizes = size_of(run), []
    for file, said in zip(files, tree["rungs"], strict=True):
        rung = load_run(file)
        size = size_of(rung)
        sizes.append(size.flops)
        assert size.tokens / size.parameters == pytest.approx(own.tokens / own.parameters, rel=0.03)
        assert (size.parameters, size.tokens) == (said["parameters"], said["tokens"])
        assert family_of(rung.model) is family_of(run.model)
        assert asdict(rung.data) == asdict(run.data) and rung.model.vocab_size == run.model.vocab_size
        assert rung.optim.name == run.optim.name and rung.optim.lr > run.optim.lr
        shape = [one.num_layers / one.hidden_size for one in (rung.model, run.model)]
        assert 0.5 < shape[0] / shape[1] < 2
        compute = size.parameters / own.parameters * size.tokens / own.tokens
        assert rung.optim.lr == pytest.approx(run.optim.lr * compute**-0.125, rel=0.1)
        assert last_batch_size(rung.train) == pytest.approx(last_batch_size(run.train) * compute**0.3271, rel=0.1)
        assert rung.run_dir.startswith("runs/1b-ladder/") and said["gpu_hours"] > 0
        assert rung.parallel.data_parallel_size == said["gpus"] and rung.parallel.device == run.parallel.device
    assert sizes == sorted(sizes) and sum(sizes) < 0.02 * own.flops


def test_gpu_hours_are_tokens_over_the_speed_of_the_layout(written: Any) -> None:
    folder, tree = written
    last = tree["rungs"][-1]
    said = planned(
        folder / f"{last['name']}.yaml", "--gpus", last["gpus"], "--gpu", "h100", "--own", "--rehearse", 0, "--json"
    )
    found = json.loads(said)
    own = found["own"]["tokens_per_second_per_gpu"]
    assert last["gpu_hours"] == pytest.approx(last["tokens"] / own / 3600)


def test_a_ladder_that_is_there_is_kept(written: Any) -> None:
    folder, _ = written
    before = {file: file.read_bytes() for file in folder.iterdir()}
    said = planned(CONFIG, "--ladder", folder, code=2)
    assert f"--ladder ({folder}) must not be there yet" in said and len(said.splitlines()) == 1
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    works = said.split("; --ladder ")[1].split(" works")[0]
    assert json.loads(planned(CONFIG, "--ladder", works, "--parts", "1/64", "--json"))["rungs"]


def test_nothing_is_left_of_a_ladder_that_cannot_be_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = ladder_files.write_whole, []

    def full(path: Path, text: str) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write(path, text)

    monkeypatch.setattr(ladder_files, "write_whole", full)
    planned(CONFIG, "--ladder", tmp_path / "ladder", code=2)
    assert len(written) == 2 and not list(tmp_path.iterdir())


def test_a_rung_learns_the_same_whatever_micro_batch_its_config_has(tmp_path: Path) -> None:
    said = {}
    for micro in (1, 8):
        words = (f"train.micro_batch_size={micro}", "--ladder", tmp_path / str(micro), "--json")
        rungs = json.loads(planned(CONFIG, *words))["rungs"]
        said[micro] = [(one["global_batch_size"], one["steps"], one["learning_rate"]) for one in rungs]
    assert said[1] == said[8]


def test_budgets_and_ratios(tmp_path: Path) -> None:
    words = ("--rung-flops", "1e17,1e18", "--tokens-per-parameter", "20,80", "--json")
    rungs = json.loads(planned(CONFIG, "--ladder", tmp_path / "ladder", *words))["rungs"]
    assert len(rungs) == 4
    for one in rungs:
        step = one["flops"] / one["steps"]
        assert min(abs(one["flops"] - budget) for budget in (1e17, 1e18)) <= 2 * step
    assert max(one["tokens"] / one["parameters"] for one in rungs) > 3 * min(
        one["tokens"] / one["parameters"] for one in rungs
    )


def test_an_odd_number_of_gpus_is_the_most_that_a_rung_takes(tmp_path: Path) -> None:
    said = planned(
        CONFIG, "--ladder", tmp_path / "ladder", "--parts", "1/128", "--gpus", "7", "--gpu", "h100", "--json"
    )
    (one,) = json.loads(said)["rungs"]
    assert one["gpus"] in (1, 3, 7) and one["global_batch_size"] % one["gpus"] == 0


def test_a_ladder_on_cores_is_planned_for_cores(tmp_path: Path) -> None:
    cores = "tests/golden/formats/v3/plan/cores.yaml"
    said = planned(
        "configs/tiny.yaml", "--ladder", tmp_path / "ladder", "--parts", "1/2", "--gpus", "2", "--gpu", cores, "--json"
    )
    (one,) = json.loads(said)["rungs"]
    (file,) = (tmp_path / "ladder").iterdir()
    alone = planned(file, "--gpus", one["gpus"], "--gpu", cores, "--own", "--rehearse", 0, "--json")
    speed = json.loads(alone)["own"]["tokens_per_second_per_gpu"]
    assert one["gpu_hours"] == pytest.approx(one["tokens"] / speed / 3600)


def test_a_ladder_of_one_run_is_called_so(tmp_path: Path) -> None:
    said = planned(CONFIG, "--ladder", tmp_path / "ladder", "--parts", "1/64")
    assert said.startswith(f"a ladder of 1 run below {CONFIG}: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--fit",), "--fit must stand beside --ladder"),
        (("--parts", "1/64"), r"--parts (1/64) must stand beside --ladder"),
        (("--ladder", "{new}", "--parts", "2"), "--parts ('2') must be a fraction above 0 and below 1; --parts 1/64 works"),
        (("--ladder", "{new}", "--tokens-per-parameter", "20,no"), "--tokens-per-parameter 20,40,80 works"),
        (("--ladder", "{new}", "--tokens-per-parameter", "nan"), "--tokens-per-parameter 20,40,80 works"),
        (("--ladder", "{new}", "--rung-flops", "1"), "--rung-flops (1) must be between"),
        (("--ladder", "{new}", "--rung-flops", "1e18", "--parts", "1/64"), "--rung-flops (1e18) stands in place of --parts"),
        (("--ladder", "{new}", "--parts", "1/64,"), "--parts ('1/64,') must have a part between its commas; --parts 1/64 works"),
        (("--ladder", "{new}", "--parts", ","), "--parts (',') must have a part between its commas; --parts 1/64,1/16 works"),
        (("--ladder", "{new}", "--gpus", "0", "--gpu", "h100"), "--gpus (0) must be at least 1"),
        (("--ladder", "{new}/below"), "must name a folder in one that exists"),
        (("--ladder", ""), "must name a folder in one that exists"),
        (("--ladder", "/"), "must name a folder in one that exists"),
        (("--ladder", ".."), "must name a folder in one that exists"),
        (("--ladder", "a" * 300, "--fit"), "File name too long"),
        (("--ladder", "{new}", "--fit"), "must be a folder with the config of every rung"),
        (("checkpoint.init_from=runs/other", "--ladder", "{new}"), "checkpoint.init_from=null works"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_in_a_line_and_nothing_is_written(tmp_path: Path, words: Any, says: str) -> None:
    said = planned(CONFIG, *(word.format(new=tmp_path / "new") for word in words), code=2)
    assert says in said and len(said.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_the_advice_for_a_budget_works(tmp_path: Path) -> None:
    said = planned(CONFIG, "--ladder", tmp_path / "ladder", "--rung-flops", "1e40", code=2)
    assert "at most" in said
    said = planned(CONFIG, "--ladder", tmp_path / "ladder", "--rung-flops", "1e25", code=2)
    works = said.split("--rung-flops ")[-1].split(" works")[0]
    planned(CONFIG, "--ladder", tmp_path / "ladder", "--rung-flops", works)


Trained = tuple[Path, Callable[..., None]]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that writes a ladder, and records of runs of it whose losses are those of a law."""

    def make(law: Law, *words: str, noise: float = 0.0) -> Path:
        folder = tmp_path / "ladder"
        planned(CONFIG, f"run_dir={tmp_path / 'runs'}", "--ladder", folder, *words)
        for number, file in enumerate(sorted(folder.glob("*.yaml"))):
            rung = load_run(file)
            finish(rung, law.loss(size_of(rung)) * math.exp(noise * (-1) ** number))
        return folder

    return make


def finish(rung: RunConfig, loss: float | None, *, identity: str = "tokens", **config: Any) -> None:
    """Write what a run leaves that was trained to its end; without a loss, one that was stopped before."""
    run_dir, last = Path(rung.run_dir), last_step(rung.optim, rung.train)
    run_dir.mkdir(parents=True, exist_ok=True)
    source = StartSource(
        prefix="data/shards/train", identity=identity, num_tokens=9, train_tokens=9, domain="train", idx_sha256=None,
        documents_sha256=None,
    )  # fmt: skip
    write_start_file(run_dir, StartFile(
        number=1, time_unix_s=1.5e9, startup_s=1.0, step=0, consumed_samples=0, decay_start_sample=None,
        config={**asdict(rung), **config}, code=StartCode(version="0", commit=None, modified=None), versions={}, hosts=("node",),
        num_ranks=1, devices={"cpu": 1}, device_type="cpu", user="ada", job=None, sources=(source,), validation_sources=(),
        origin=None, changes=(),
    ))  # fmt: skip
    records: list[dict[str, Any]] = [{"kind": "validation", "step": last // 2, "validation_loss": {"validation": 9.0}}]
    if loss is not None:
        records.append({"kind": "validation", "step": last, "validation_loss": {"validation": loss}})
        records.append({"kind": "end", "step": last, "outcome": "finished"})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def fitted(folder: Path, *overrides: str, code: int = 0) -> str:
    return planned(CONFIG, *overrides, "--ladder", folder, "--fit", *(["--json"] if not code else []), code=code)


def test_five_runs_at_the_config_s_ratio_give_a_law_of_compute(trained: Callable[..., Path]) -> None:
    folder = trained(COMPUTE, noise=0.001)
    found, own = json.loads(fitted(folder)), size_of(load_run(CONFIG))
    assert found["law"]["form"] == "compute" and len(found["runs"]) == 5
    assert found["low"] < COMPUTE.loss(own) < found["high"] and found["low"] < found["loss"] < found["high"]
    left = found["largest_left_out"]
    assert left["name"].startswith("05") and left["predicted"] == pytest.approx(left["loss"], rel=0.02)
    assert found["times_further"] == pytest.approx(own.flops / found["runs"][-1]["flops"])
    lines = planned(CONFIG, "--ladder", folder, "--fit").splitlines()
    assert max(map(len, lines)) <= 100 and any("90% interval" in line for line in lines)


def test_runs_of_several_ratios_give_a_law_of_parameters_and_tokens(trained: Callable[..., Path]) -> None:
    folder = trained(HOFFMANN, "--tokens-per-parameter", "20,80", "--parts", "1/256,1/128,1/64,1/16")
    found, own = json.loads(fitted(folder)), size_of(load_run(CONFIG))
    assert found["law"]["form"] == "parameters and tokens" and len(found["runs"]) == 8
    assert found["loss"] == pytest.approx(HOFFMANN.loss(own), rel=0.002)


def test_too_few_finished_runs_are_refused_and_the_others_named(trained: Callable[..., Path]) -> None:
    folder = trained(COMPUTE)
    for file in sorted(folder.glob("*.yaml"))[:2]:
        finish(load_run(file), None)
    said = fitted(folder, code=2)
    assert "--fit needs 4 finished runs" in said and "there are 3" in said and "01-" in said and "last step" in said


def test_a_run_of_two_files_and_a_run_that_diverged_are_named(trained: Callable[..., Path]) -> None:
    folder = trained(COMPUTE)
    one, two = sorted(folder.glob("*.yaml"))[:2]
    finish(load_run(one), math.nan)
    said = fitted(folder, code=2)
    assert f"{one.stem} has none and {two.stem} has validation" in said and "without the file of a run" in said
    text = one.read_text()
    one.unlink()
    fitted(folder)
    one.write_text(text)
    two.write_text(text)
    said = fitted(folder, code=2)
    assert f"{two} and {one} have the same run_dir" in said and "move one of the two out of the folder" in said


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("data.seq_length=2048",), "data.seq_length is 4096 there and 2048 in CONFIG"),
        (("model.activation=geglu",), "model.activation is swiglu there and geglu in CONFIG"),
        (("optim.name=stable_adamw",), "optim.name is adamw there and stable_adamw in CONFIG"),
    ],
)
def test_another_family_is_no_ladder_of_a_config(trained: Callable[..., Path], overrides: Any, says: str) -> None:
    assert says in fitted(trained(COMPUTE), *overrides, code=2)


def test_a_run_that_trained_something_else_than_its_rung_is_refused(trained: Callable[..., Path]) -> None:
    folder = trained(COMPUTE)
    rung = load_run(sorted(folder.glob("*.yaml"))[1])
    finish(rung, 3.0, optim=asdict(replace(rung.optim, lr=1e-5)))
    assert "its start 1 had optim.lr=1e-05, and the rung has" in fitted(folder, code=2)
    finish(rung, 3.0, train={**asdict(rung.train), "micro_batch_size": 1, "watchdog": None})
    assert read_start(rung.run_dir, 1).config["train"]["micro_batch_size"] == 1
    fitted(folder)
    finish(rung, 3.0, identity="other tokens")
    assert "must have read the same shards" in fitted(folder, code=2)
