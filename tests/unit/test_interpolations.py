"""What a YAML file may have filled in: keys of its own, and few variables; what was written resolved, nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fanal.errors import UserError
from fanal.interpolations import VARIABLES, may_be_read
from fanal.run_folder import COMPLETE, JOB
from launch.sites.site import load_site
from pretrain.checkpoint.disk.config_file import read_config
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.config.load import load_run, to_yaml
from tokenizer.vocabulary.spec import load_spec

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.yaml"
SECRET = "hf_abcdefghijklmnop"
ATTACKS = (
    "${oc.env:HF_TOKEN}", "a${oc.env:HF_TOKEN}b", "${oc.env: HF_TOKEN}", "${oc.env:HF_TOKEN,}", "${oc.env:'HF_TOKEN'}", '${oc.env:"HF_TOKEN"}',
    "${oc.env:NOPE,${oc.env:HF_TOKEN}}", "${oc.env:WORK,${oc.env:HF_TOKEN}}", "${oc.env:${log.name}}", "${${log.name}:HF_TOKEN}",
    "${oc.${log.name}:HF_TOKEN}", "${oc.decode:${oc.env:HF_TOKEN}}", "${oc.decode:'${oc.env:HF_TOKEN}'}",
    "${oc.decode:'\\${oc.env:HF_TOKEN}'}", "${oc.create:{a: '${oc.env:HF_TOKEN}'}}", "${oc.select:run_dir}",
    "${oc.select:nope,${oc.env:HF_TOKEN}}", "${oc.dict.keys:model}", "${oc.deprecated:run_dir}", "${env:HF_TOKEN}", "${x:HF_TOKEN}",
    "\\${oc.env:HF_TOKEN}", "\\\\${oc.env:HF_TOKEN}", "${oc.env:SLURM_JWT}", "${oc.env:HF\\_TOKEN}", "${ oc.env:HF_TOKEN}",
    "${oc.env :HF_TOKEN}", "${oc.env:work}", "${oc.env:}", "${oc.env:WORK,\\}${oc.env:HF_TOKEN}", "${oc.env:AWS_SECRET_ACCESS_KEY}",
)  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "SLURM_JWT", "work", "AWS_SECRET_ACCESS_KEY", "HF\\_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    for name in ("WORK", "SCRATCH", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "/there")
    monkeypatch.delenv("STORE", raising=False)


@pytest.mark.parametrize("text", ATTACKS)
def test_no_file_has_a_secret_filled_in(text: str, tmp_path: Path) -> None:
    written = yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"run_dir": text})
    (tmp_path / "run.yaml").write_text(written)
    (tmp_path / "site.yaml").write_text(
        yaml.safe_dump({"description": text, "gpus_per_node": 0, "cores_per_node": 1, "node_local_dir": text})
    )
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"vocab_size": 2000, "user_defined_symbols": [text]}))
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for read in (
        lambda: load_run(tmp_path / "run.yaml"),
        lambda: load_run(TINY, [f"run_dir={quoted}"]),
        lambda: load_run(TINY, [f"data.train=[{{prefix: a, domain: {quoted}}}]"]),
        lambda: load_site(str(tmp_path / "site.yaml")),
        lambda: load_spec(tmp_path / "spec.yaml"),
    ):
        with pytest.raises(UserError) as refused:
            read()
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize("tag", ["pathlib.Path", "pathlib.PosixPath"])
def test_a_path_that_a_tag_makes_is_read_as_the_text_that_it_becomes(tag: str, tmp_path: Path) -> None:
    attack = f'!!python/object/apply:{tag} ["${{oc.env:HF_TOKEN}}"]'
    (tmp_path / "run.yaml").write_text(TINY.read_text().replace("run_dir: runs/tiny", f"run_dir: {attack}"))
    (tmp_path / "spec.yaml").write_text(f"vocab_size: 2000\nuser_defined_symbols: [{attack}]\n")
    for read in (
        lambda: load_run(tmp_path / "run.yaml"),
        lambda: load_run(TINY, [f"run_dir={attack}"]),
        lambda: load_run(TINY, [f"data.train=[{{prefix: {attack}}}]"]),
        lambda: load_spec(tmp_path / "spec.yaml"),
    ):
        with pytest.raises(UserError, match="must not read the variable 'HF_TOKEN'"):
            read()
    (tmp_path / "config.yaml").write_text((tmp_path / "run.yaml").read_text())
    with pytest.raises(DamagedCheckpointError, match=r"run_dir, .* is to be filled in"):
        read_config(tmp_path)


def test_the_refusal_names_the_key_the_variable_the_list_and_what_works() -> None:
    with pytest.raises(
        UserError, match=r"tiny.yaml: run_dir \('\$\{oc.env:HF_TOKEN\}'\) must not read the variable 'HF_TOKEN': its"
    ) as told:
        load_run(TINY, ["run_dir=${oc.env:HF_TOKEN}"])
    assert ", ".join(VARIABLES) in str(told.value) and str(told.value).endswith("; the text written out works")
    with pytest.raises(
        UserError, match=r"must hold \$\{ only as \$\{key\}, .* or as \$\{oc.env:WORK\}, a variable; the text written"
    ):
        load_run(TINY, ["run_dir=${oc.decode:a}"])


def test_keys_and_places_are_filled_in_as_before(tmp_path: Path) -> None:
    for text, value in (
        ("${oc.env:WORK}/runs", "/there/runs"), ("${oc.env:WORK}${oc.env:SCRATCH}", "/there/there"), ("${data.tokenizer}/x", "demo/tokenizer/x"),
        ("${oc.env:STORE,/else}/x", "/else/x"), ("${oc.env:SLURM_JOB_ID}", "/there"), ("${data.train[0].prefix}", "demo/shards/train-code"),
    ):  # fmt: skip
        assert load_run(TINY, [f'run_dir="{text}"']).run_dir == value
    assert all(map(may_be_read, VARIABLES)) and not may_be_read("SLURM_JWT") and not may_be_read("SLURM_JWT_KEY")


def test_a_variable_brings_nothing_in_that_is_filled_in_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK", "${oc.env:HF_TOKEN}")
    for override in ("run_dir=${oc.env:WORK}", "data.train=[{prefix: a, domain: '${oc.env:WORK}'}]"):
        with pytest.raises(
            UserError, match=r"\('\$\{oc.env:HF_TOKEN\}'\) must hold no \$\{ once its variables are filled in; look at"
        ):
            load_run(TINY, [override])


@pytest.mark.parametrize("beside", [COMPLETE, JOB])
def test_a_file_that_was_written_resolved_holds_nothing_to_fill_in(beside: str, tmp_path: Path) -> None:
    text = to_yaml(load_run(TINY))
    (tmp_path / beside).write_text("")
    (tmp_path / "config.yaml").write_text(text)
    assert load_run(tmp_path / "config.yaml", ["run_dir=${oc.env:WORK}/runs"]).run_dir == "/there/runs"
    (tmp_path / "config.yaml").write_text(text.replace("run_dir: ", "run_dir: ${oc.env:WORK}/"))
    with pytest.raises(
        UserError, match=r"config.yaml: run_dir .* must hold no \$\{: this file was written with every value"
    ):
        load_run(tmp_path / "config.yaml")
    with pytest.raises(DamagedCheckpointError, match=r"run_dir, '\$\{oc.env:WORK\}/.*', is to be filled in"):
        read_config(tmp_path)
    (tmp_path / "site.yaml").write_text('{description: "${oc.env:WORK}", gpus_per_node: 0, cores_per_node: 1}')
    with pytest.raises(UserError, match=r"site.yaml: description .* must hold no \$\{"):
        load_site(str(tmp_path / "site.yaml"))


def test_no_command_prints_a_secret_that_a_config_names(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(TINY.read_text().replace("run_dir: ", "run_dir: ${oc.env:HF_TOKEN}/"))
    for words in (
        ["show"],
        ["train"],
        ["launch", "render", "--site", "local", "--nodes", "1", "--hours", "1"],
        ["launch", "preflight", "--site", "local"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fanal", *words, str(tmp_path / "run.yaml")],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 2 and SECRET not in done.stdout + done.stderr, done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
