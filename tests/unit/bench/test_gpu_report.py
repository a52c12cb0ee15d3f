"""``make gpu``'s stages run on a CPU at tiny sizes, and the report says what became of each, whatever ends it."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from bench.gpu import kernels
from bench.gpu.__main__ import main, num_gpus, run_stages
from bench.gpu.attention import is_fused
from bench.gpu.found import LEFT_OUT, Findings, read_findings
from bench.gpu.model import GIB, flops_per_token, parameters, shape_here
from bench.gpu.report import FAILED, PASSED, TIMED_OUT, Report
from bench.gpu.runner import ROOT, run_stage
from bench.gpu.setting import Setting
from bench.gpu.stages import STAGES, Stage, missing
from bench.step.ours import run_config
from pretrain.model import flops
from pretrain.model.families.sizes import product_weights

CPU = Setting(device="cpu", tiny=True)
SAYS = "from bench.gpu.found import findings_here; f = findings_here(); f.note('a first finding'); "
BY_NAME = {stage.name: stage for stage in STAGES}


def stage(code: str, **fields: object) -> Stage:
    """A stage that runs a line of Python."""
    return Stage(**{"name": "made-up", "title": "Made up", "arguments": ["-c", code], "limit_s": 60.0, **fields})  # pyright: ignore[reportArgumentType]


def wait_until_gone(pid: int) -> None:
    """Wait for a process that was killed, and fail if it was not."""
    until = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, f"process {pid} is still there"
        time.sleep(0.1)


def report_in(folder: Path, budget_s: float = 360.0) -> Report:
    return Report(folder=folder, started="now", commit="none", device="cpu", tiny=True, budget_s=budget_s)


def run(stages: list[Stage], folder: Path, *, budget_s: float = 360.0, gpus: int = 1) -> tuple[int, dict, str]:
    """The exit code, and both files of the report."""
    code = run_stages(stages, report_in(folder, budget_s), replace(CPU, folder=folder), gpus)
    return code, json.loads((folder / "gpu-report.json").read_text()), (folder / "gpu-report.md").read_text()


def test_a_stage_that_passes_is_in_both_files_with_what_it_found(tmp_path: Path) -> None:
    code, content, page = run([stage(SAYS + "f.row('sizes', {'name': 'a|b', 'bytes': 3})")], tmp_path)
    assert code == 0 and content["results"][0]["status"] == PASSED
    assert "- a first finding" in page and "| name | bytes |" in page and r"| a\|b | 3 |" in page
    assert "**No figure below is a GPU's**" in page


def test_a_stage_that_fails_is_reported_with_its_last_lines_and_the_next_one_runs(tmp_path: Path) -> None:
    wrong = stage(SAYS + "raise SystemExit('what went wrong')", name="wrong")
    code, content, page = run([wrong, stage(SAYS)], tmp_path)
    first, second = content["results"]
    assert code == 1 and (first["status"], second["status"]) == (FAILED, PASSED)
    assert (
        first["reason"] == "exit code 1" and first["last_lines"][-1] == "what went wrong" and "what went wrong" in page
    )
    assert second["last_lines"] == []


def test_a_fault_fails_a_stage_that_goes_on(tmp_path: Path) -> None:
    code, content, page = run(
        [stage(SAYS + "f.fault('it is off'); f.note('and more'); raise SystemExit(f.exit_code())")], tmp_path
    )
    assert code == 1 and content["results"][0]["status"] == FAILED
    assert "- **Fault**: it is off\n- and more\n" in page


def test_a_stage_that_takes_too_long_is_cut_off_with_all_that_it_started_and_keeps_what_it_found(
    tmp_path: Path,
) -> None:
    pid = tmp_path / "pid"
    child = f"import pathlib, os, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    deaf = "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code = f"{deaf}{SAYS}subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    result = run_stage(stage(code), replace(CPU, folder=tmp_path), limit_s=6.0)
    assert result.status == TIMED_OUT and result.reason == "cut off after 6 s" and result.seconds < 20
    assert [finding["text"] for finding in result.findings] == ["a first finding"]
    wait_until_gone(int(pid.read_text()))


def test_a_stage_that_is_cut_off_says_where_it_was(tmp_path: Path) -> None:
    result = run_stage(
        stage("import time\ndef waits():\n    time.sleep(600)\nwaits()"), replace(CPU, folder=tmp_path), limit_s=4.0
    )
    assert result.status == TIMED_OUT and result.last_lines[-1] == "KeyboardInterrupt"
    assert any("in waits" in line for line in result.last_lines)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_what_was_found_is_in_the_report_when_the_command_itself_is_ended_and_so_is_its_stage(
    ending: signal.Signals, tmp_path: Path
) -> None:
    code = "f.note(str(__import__('os').getpid())); import time; time.sleep(600)"
    program = f"from tests.unit.bench.test_gpu_report import *\nrun([stage(SAYS + {code!r})], Path({str(tmp_path)!r}))"
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # who started these tests may ignore Ctrl-C
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True, preexec_fn=heard)
    written, found = tmp_path / "gpu-report.json", []
    try:
        until = time.monotonic() + 120
        while len(found) < 2:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.1)
            found = json.loads(written.read_text())["results"][0]["findings"] if written.exists() else []
    finally:
        process.send_signal(ending)
        process.wait(60)
    (result,) = json.loads(written.read_text())["results"]
    assert result["status"] == "running" and "- a first finding" in (tmp_path / "gpu-report.md").read_text()
    wait_until_gone(int(found[1]["text"]))


def test_what_does_not_fit_the_budget_or_the_machine_is_left_out_with_the_reason(tmp_path: Path) -> None:
    stages = [
        stage(SAYS, name="lacking", needs=("torch", "no_such_module", "no_such.one")),
        stage(SAYS, name="large", gpus=2),
        stage("import time; time.sleep(600)", name="slow"),
        stage(SAYS, name="late"),
    ]
    code, content, page = run(stages, tmp_path, budget_s=9.0)
    found = {result["name"]: (result["status"], result["reason"]) for result in content["results"]}
    assert code == 1
    assert found["lacking"] == (LEFT_OUT, "not installed here: no_such_module, no_such.one")
    assert found["large"] == (LEFT_OUT, "needs 2 GPUs, 1 here")
    assert found["slow"] == (TIMED_OUT, "cut off after 9 s")
    assert found["late"] == (LEFT_OUT, "0 s of the budget were left")
    assert "| lacking | left out |" in page


def test_stages_left_out_alone_are_no_failure(tmp_path: Path) -> None:
    assert run([stage(SAYS, gpus=2)], tmp_path)[0] == 0


def test_a_line_that_was_cut_off_in_the_middle_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "found"
    Findings(path).note("whole")
    with path.open("a") as stream:
        stream.write('{"kind": "no')
    assert read_findings(path) == [{"kind": "note", "text": "whole"}]


@pytest.mark.skipif(num_gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == (
        "PyTorch sees no GPU here, so nothing was run; on a machine with one: make gpu, or python3 -m bench.gpu\n"
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget-s", "3"], "--budget-s (3) must be at least 8; --budget-s 360 works"),
        (["--budget-s", "nan"], "--budget-s (nan) must be at least 8; --budget-s 360 works"),
        (["--only", "step,nothing"], "--only (nothing) must name stages: --only environment,kernels,"),
        (["--out", __file__], "must be a folder; --out build works"),
        (["--device", "cpu", "--out", f"{__file__}/report"], "must be a folder that can be made (Not a directory)"),
    ],
)
def test_wrong_arguments_end_in_words(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_timed_model_has_1_27_billion_parameters_and_the_product_s_flops() -> None:
    shape = shape_here(Setting(device="cpu"))
    assert parameters(shape) / 1e9 == pytest.approx(1.27, abs=0.005)
    model = run_config(shape, "bf16").model
    assert product_weights(model) == (flops_per_token(replace(shape, seq_length=0), causal=True) / 6)
    for causal in (False, True):
        wanted = flops.flops_per_token(model, shape.seq_length, causal=causal)
        assert flops_per_token(shape, causal=causal) == wanted
    assert GIB == 1 << 30


def test_nothing_that_a_bare_machine_lacks_is_imported_by_what_needs_only_torch() -> None:
    """torch, numpy and transformers are on it; megatron-core and what reads configs is not."""
    blocked = ("megatron", "omegaconf", "blake3", "gigatoken", "orjson", "zstandard", "pytest", "hypothesis")
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import bench.gpu.__main__, bench.gpu.environment, bench.gpu.attention, bench.gpu.kernels, bench.gpu.bandwidths, bench.gpu.step
import bench.step.plain
from bench.gpu.stages import STAGES, missing
for stage in STAGES:
    print(stage.name, missing(stage, 1))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["step"] == said["attention"] == said["environment"] == "None"
    assert said["memory"] == "not installed here: megatron.core, omegaconf, blake3, orjson"
    assert said["resume"].startswith("not installed here: megatron.core, omegaconf, blake3, orjson, pytest, hypothesis")


def test_a_stage_that_asked_nothing_after_all_has_not_passed(tmp_path: Path) -> None:
    code, content, _ = run([stage(SAYS + "f.left_out('no such command')")], tmp_path)
    assert (
        code == 0
        and content["results"][0]["status"] == LEFT_OUT
        and content["results"][0]["reason"] == "no such command"
    )


def test_a_selection_of_which_every_test_is_skipped_has_not_passed(tmp_path: Path) -> None:
    result = run_stage(BY_NAME["more"], replace(CPU, folder=tmp_path), limit_s=300)
    assert num_gpus() > 0 or (result.status, result.reason) == (LEFT_OUT, "every test was skipped")


@pytest.mark.parametrize("name", ["environment", "attention", "memory", "trace", "kernels"])
def test_a_stage_runs_on_a_cpu_at_tiny_sizes(name: str, tmp_path: Path) -> None:
    if reason := missing(BY_NAME[name], 2):
        pytest.skip(reason)
    result = run_stage(BY_NAME[name], replace(CPU, folder=tmp_path), limit_s=300)
    assert result.status == PASSED or result.reason == "this version has no `fanal rehearse`", result.last_lines
    assert result.findings and all(finding["kind"] != "fault" for finding in result.findings)


def test_a_kernel_that_does_not_run_is_a_fault_and_the_others_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Triton none runs, and each says so."""
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(kernels, "here", lambda: CPU)
    monkeypatch.setattr(kernels, "adamw_difference", lambda *_: 0.0)
    said: list[str] = []
    monkeypatch.setattr(Findings, "fault", lambda _, text: said.append(text))
    kernels.main()
    assert len(said) == len(kernels.cases(tiny=True, device=torch.device("meta"))) > 8
    assert said[0].startswith("rms_norm: ")


def test_a_kernel_that_is_off_by_little_is_seen() -> None:
    (case,) = (case for case in kernels.cases(tiny=True, device=torch.device("cpu")) if case.name == "swiglu")
    sound = replace(case, operation=case.definition)
    off = replace(case, operation=lambda x: case.definition(x * (1 + 1e-4)))
    assert max(kernels.differences(sound, torch.float32, torch.device("cpu"))) < kernels.BOUND[torch.float32]
    assert min(kernels.differences(off, torch.float32, torch.device("cpu"))) > kernels.BOUND[torch.float32]


def test_the_contestants_agree_on_a_cpu_at_tiny_sizes(tmp_path: Path) -> None:
    result = run_stage(BY_NAME["step"], replace(CPU, folder=tmp_path), limit_s=400)
    assert result.status == PASSED, "\n".join(result.last_lines)
    rows = [finding["cells"] for finding in result.findings if finding["kind"] == "row"]
    assert [row["contestant"] for row in rows] == [
        "Fanal", "plain PyTorch, compiled by layer", "Hugging Face", "plain PyTorch",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<128, 64>>", True),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", True),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", True),
        ("for_queries", True),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", False),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float>", False),
    ],
)
def test_a_fused_kernel_is_known_by_its_name_among_those_that_took_longest(name: str, fused: bool) -> None:
    assert is_fused(["void at::native::reduce_kernel<512>", name]) == fused
    assert not is_fused([*["ampere_bf16_s16816gemm_bf16"] * 4, name]), "one that took next to no time says nothing"
