"""Sites: what is refused, before a script is made of it."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from omegaconf import OmegaConf

from fanal.errors import UserError
from launch.__main__ import cli
from launch.chain.script import environment, script
from launch.encoding.script import EncodeJobs, encode_script, merge_script
from launch.sites.rules import SET_BY_SCRIPTS
from launch.sites.schema import VariableConfig
from launch.sites.site import known_sites, load_site
from pretrain.config.library_variables import library_variables
from tests.golden.launch_scripts import CONFIGS, golden_job
from tests.two_users import needs_two_users

BASE = "description: a machine\ngpus_per_node: 0\ncores_per_node: 4\n"
VARIABLE = "environment: {{A: {{value: {}, reason: why}}}}"
ERRORS = {
    "a mapping for a list": ("qos: {name: a, max_hours: 2}", r"qos \({name: a, max_hours: 2}\) must be a list, .*; \[{name: a, max_hours: 2}\] works"),
    "a mapping for words": ("modules: {arch/h100: ''}", r"modules \(.*\) must be a list, with all of its items; \[arch/h100\] works"),
    "a list for names": ("environment: [A]", r"environment \(\[A\]\) must be a mapping; {NAME: {value: mine, reason: why it is set}} works"),
    "a list for a variable": ("environment: {A: [b]}", r"environment.A \(\[b\]\) must be a mapping; {value: mine, reason: why it is set} works"),
    "an unknown key of a variable": ("environment: {A: {valeu: b}}", r"environment.A.valeu is not a key; did you mean environment.A.value\?"),
    "one thing for keys": ("node_check: 5", r"node_check \(5\) must be a mapping; {gemm_slower: 1.05} works"),
    "a command": (VARIABLE.format("'$(id)'"), r"environment.A.value \('\$\(id\)'\) must be one line without double quotes, .*; /tmp/\$USER works"),
    "a command, the old way": (VARIABLE.format("'`id`'"), "environment.A.value .* must be one line without double quotes"),
    "a double quote": (VARIABLE.format("'a\"b'"), "environment.A.value .* must be one line without double quotes"),
    "a backslash": (VARIABLE.format("'a\\'"), "environment.A.value .* must be one line without double quotes"),
    "two lines": (VARIABLE.format('"a\\nb"'), "environment.A.value .* must be one line without double quotes"),
    "a sum": (VARIABLE.format("'$[1+1]'"), "environment.A.value .* must be one line without double quotes"),
    "a variable of omegaconf's": (VARIABLE.format("'${NONE}'"), r"environment.A.value: .*NONE.*; an environment variable is written \$NONE"),
    "a variable in braces": (VARIABLE.format("'\\${NONE}'"), r"environment.A.value .* must hold \$\{ only as"),
    "a folder with a command": ("node_local_dir: /tmp/$(id)", "node_local_dir .* must be one line without double quotes"),
    "a folder with a quote": ("node_local_dir: /tmp/\"a", "node_local_dir .* must be one line without double quotes"),
    "a folder that is wanted and not named": ("node_local: true", r"node_local_dir, which is empty, must name a folder of each node where node_local is true; /dev/shm works"),
    "a folder that is not absolute": ("node_local_dir: tmp", r"node_local_dir \(tmp\) must be absolute: it lies on each node; /dev/shm works"),
    "a reason of two lines": ('environment: {A: {value: b, reason: "a\\nb"}}', "environment.A.reason .* must be one line"),
    "a truth value": (VARIABLE.format("true"), "environment.A.value must be text, and YAML reads it as bool True; write it in quotes"),
    "an octal number": (VARIABLE.format("010"), "environment.A.value must be text, and YAML reads it as int 8; write it in quotes"),
    "a version": (VARIABLE.format("1.10"), "environment.A.value must be text, and YAML reads it as float 1.1; write it in quotes: value: '1.1' works"),
    "a module that is a number": ("modules: [a, 3.10]", r"modules\[1\] must be text, and YAML reads it as float 3.1"),
    "no cores to encode": ("encode: {cores: 0}", r"encode.cores \(0\) must be at least 1; 8 works"),
    "two QoS of one name": ("qos: [{name: a, max_hours: 2}, {name: a, max_hours: 3}]", r"qos\[1\].name \('a'\) must differ from that of qos\[0\]"),
    "a QoS without a name": ("qos: [{name: '', max_hours: 2}]", r"qos\[0\].name \(''\) must not be empty; "),
    "two QoS of one name to encode": (
        "encode: {cores: 1, qos: [{name: a, max_hours: 2}, {name: a, max_hours: 3}]}", r"encode.qos\[1\].name \('a'\) must differ",
    ),
    "an open quote": (
        "file_systems: [{name: W, quota_command: \"echo 'a\"}]",
        r"quota_command of file system W \(\"echo 'a\"\) must be a command, its quotes in pairs; idr_quota_user works",
    ),
    "another processor": ("architecture: arm64", r"architecture \(arm64\) must be one of x86_64, aarch64; x86_64 works"),
    "some internet": ("internet: sometimes", r"internet \(sometimes\) must be one of everywhere, login, nowhere; everywhere works"),
    "another runtime": ("container: {runtime: docker}", r"container.runtime \(docker\) must be one of apptainer, singularity, pyxis, edf; apptainer works"),
    "an option of two words": (
        "container: {runtime: apptainer, options: ['--bind /a']}", r"container.options\[0\] \('--bind /a'\) must be one word of .*; --nv works",
    ),
    "a Python with a command": ("container: {runtime: edf, python: 'a;b'}", r"container.python \('a;b'\) must be one word of .*; python3 works"),
    "cores of ranks that are not there": ("cores_of_ranks: [0-3]", r"cores_of_ranks \(1 of them\) must be as many as gpus_per_node \(0\), or none; \[\] works"),
    "a least number above the largest": ("qos: [{name: a, max_hours: 2, max_gpus: 4, min_gpus: 8}]", r"qos\[0\].min_gpus \(8\) must be from 0 to max_gpus \(4\); 0 works"),
    "a folder of a rank that is not absolute": (
        "environment: {A: {value: b, reason: why, per_rank: true}}", r"environment.A.value \(b\) must be an absolute folder where per_rank is true; /tmp/mine-\$USER works",
    ),
    "a base that is not there": ("base: nowhere", r"base \('nowhere'\) must be one of alps-clariden, .*gh200, .*; infiniband works"),
    "an empty command": ("file_systems: [{name: W, quota_command: ' '}]", r"quota_command of file system W \(' '\) must be a command"),
}  # fmt: skip


def written(folder: Path, text: str) -> str:
    (folder / "site.yaml").write_text(BASE + text + "\n")
    return str(folder / "site.yaml")


@pytest.mark.parametrize("name", ERRORS)
def test_a_site_that_makes_no_sound_script_is_refused(name: str, tmp_path: Path) -> None:
    text, message = ERRORS[name]
    with pytest.raises(ValueError, match=message) as caught:
        load_site(written(tmp_path, text))
    assert "site.yaml" in str(caught.value) or "written $NONE" in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- a"])
def test_a_site_that_is_no_mapping_is_called_a_site(text: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^site .*site.yaml (is not readable YAML|must be a mapping .* it is a list)"):
        load_site(str(tmp_path / "site.yaml"))


@pytest.mark.parametrize("name", ["FANAL_CONFIG", "PYTHONPATH", "OMP_NUM_THREADS", "PRETRAIN_EXIT_CODES", "launch_dir"])
def test_a_variable_that_scripts_set_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"environment.{name} must not be set by a site.*; MY_{name} works"):
        load_site(written(tmp_path, f"environment: {{{name}: {{value: '1', reason: why}}}}"))


@pytest.mark.parametrize("site_name", known_sites())
def test_every_variable_that_a_script_sets_is_known(site_name: str) -> None:
    own = set(load_site(site_name).environment)
    job = golden_job(next(path for path in CONFIGS if path.stem == "tiny"), site_name)
    encode = EncodeJobs(
        site=job.site, site_name=site_name, places=job.places, prefix=Path("/project/a"), tokenizer="t", inputs=("i",),
        options=(), parts=2, at_once=None, workers=1, minutes=60, merge_minutes=60, retries=1, modules=(), account="",
        qos="", name="a",
    )  # fmt: skip
    scripts = [
        script(job, {}),
        script(replace(job, node_local=True), {}),
        script(replace(job, spare_nodes=1), {}),
        encode_script(encode),
        merge_script(encode, {}),
    ]
    found = set(re.findall(r"^ *(?:export )?([A-Za-z_]\w*)=", "\n".join(scripts), re.MULTILINE))
    assert found >= own | {"PYTHON", "launch_dir", "FANAL_NODE_LOCAL", "parts"}
    own |= set(library_variables(job.run))  # where a site has a value for one of them, that stays
    assert {name for name in found - own if not SET_BY_SCRIPTS.fullmatch(name)} == set()


def test_a_site_s_own_value_of_what_a_run_asks_for_stays(tmp_path: Path) -> None:
    job = golden_job(next(path for path in CONFIGS if path.stem == "tiny"), "generic")
    (line,) = (line for line in script(job, {}).splitlines() if "CUDA_DEVICE_MAX_CONNECTIONS" in line)
    for before, value in (({}, "1"), ({"CUDA_DEVICE_MAX_CONNECTIONS": "8"}, "8")):
        shell = ["bash", "-c", f"{line}\nprintenv CUDA_DEVICE_MAX_CONNECTIONS"]
        assert (
            subprocess.run(shell, env=before | {"PATH": os.environ["PATH"]}, capture_output=True, text=True).stdout
            == f"{value}\n"
        )


def test_variables_are_filled_in_by_the_shell_and_quotes_keep_a_value(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, VARIABLE.format("'/tmp/$USER-010'") + "\nnode_local_dir: $TMPDIR"))
    assert environment(site) == ['export A="/tmp/$USER-010"  # why']


@pytest.mark.parametrize("value", ["010", "1.10", "true", "12:30:45", "2026-01-02", "", "~", "a: b", "$USER"])
def test_a_job_reads_its_site_as_it_was(value: str, tmp_path: Path) -> None:
    site = load_site(written(tmp_path, VARIABLE.format(f"'{value}'")))
    assert site.environment == {"A": VariableConfig(value=value, reason="why")}
    (tmp_path / "again.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(site)))
    assert load_site(str(tmp_path / "again.yaml")) == site


def test_a_site_from_elsewhere_is_said_to_run_as_its_user(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = written(tmp_path, "file_systems: [{name: W, roots: [/], quota_command: id}]")
    line = f"site: {site} is code: its modules, environment and quota_command run as you\n"
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for words in (["render", "--hours", "1"], ["preflight"]):
        keys = [str(small_run), f"run_dir={tmp_path}/run", "parallel.device=cpu", "--site"]
        said = CliRunner().invoke(cli, [words[0], *keys, site, "--nodes", "1", *words[1:]])
        assert line in said.output
        assert "is code" not in CliRunner().invoke(cli, [words[0], *keys, "local", "--nodes", "1", *words[1:]]).output


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_site_that_others_may_change_is_refused(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Path(written(tmp_path, ""))
    site.chmod(mode)
    with pytest.raises(
        UserError, match=rf"must be a file that only you may change, .* may write to it \(mode {mode:o}\)"
    ) as caught:
        load_site(str(site))
    monkeypatch.chdir(tmp_path)
    subprocess.run(re.findall("`(.*)`", str(caught.value))[0], shell=True, check=True)
    assert load_site("my-site.yaml").cores_per_node == 4, "the advice works"
    (tmp_path / "link.yaml").symlink_to(site)
    with pytest.raises(UserError, match="may write to it"):
        load_site(str(tmp_path / "link.yaml"))


@needs_two_users
def test_a_site_of_another_user_is_refused(tmp_path: Path) -> None:
    site = written(tmp_path, "")
    os.chown(site, 65534, -1)
    with pytest.raises(UserError, match="and it belongs to user 65534; a copy that you have read works"):
        load_site(site)
