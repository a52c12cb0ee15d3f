"""The record of a job's environment: what explains a run, and no secret, whatever its name."""

import json
import os
import re
from pathlib import Path

import pytest

from fanal.credentials import HIDDEN, names_a_secret, without_credentials
from fanal.errors import UserError
from launch.chain.capture import explains, write_environment
from launch.sites.site import load_site
from tests.unit.launch.secrets_of_a_user import SECRETS

SETTINGS = {
    "SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "jean-zay-iam[01-40,52]", "SLURM_JOB_CPUS_PER_NODE": "96(x2)", "SLURM_RESTART_COUNT": "1",
    "SLURM_JOB_PARTITION": "gpu_p6", "SLURM_SUBMIT_DIR": "/lustre/fswork/projects/rech/abc/u123", "SLURM_GPUS_ON_NODE": "4",
    "NCCL_IB_HCA": "mlx5_0,mlx5_1,mlx5_4", "NCCL_DEBUG": "INFO", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_IB_PKEY": "3", "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    "CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "OMP_NUM_THREADS": "24",
    "TRITON_CACHE_DIR": "/tmp/triton-u123", "UCX_NET_DEVICES": "mlx5_0:1", "FI_PROVIDER": "cxi", "HSA_OVERRIDE_GFX_VERSION": "9.0.0",
    "LD_LIBRARY_PATH": "/opt/spack/gcc-12.2.0-abcdefghij234567abcdefghij234567/lib:/usr/lib", "LOADEDMODULES": "arch/h100:cuda/12.4.1",
    "FANAL_MEET_AT": "n1:29500", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "/code", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
}  # fmt: skip


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in list(os.environ):
        if explains(name):
            monkeypatch.delenv(name)
    for name, value in (SETTINGS | SECRETS).items():
        monkeypatch.setenv(name, value)
    write_environment(tmp_path / "environment.json", tmp_path, ("n1",))
    return json.loads((tmp_path / "environment.json").read_text())


def test_no_secret_is_recorded_and_none_named(record: dict, tmp_path: Path) -> None:
    text = (tmp_path / "environment.json").read_text()
    assert not re.findall("qq[0-9][0-9]", text, re.IGNORECASE)
    assert [
        name for name in SECRETS if name in text and name not in ("NCCL_SOCKET_IFNAME", "PYTHONPATH", "CUDA_HOME")
    ] == []
    assert record["num_variables_left_out"] == len(os.environ) - len(record["variables"]) > len(SECRETS) - 5


def test_what_explains_a_run_is_recorded_as_it_is(record: dict) -> None:
    assert {name: record["variables"][name] for name in SETTINGS} == SETTINGS | {
        "PYTHONPATH": record["variables"]["PYTHONPATH"]
    }
    assert HIDDEN in record["variables"]["PYTHONPATH"], "an address with a password in it"


def test_credentials_inside_a_value_are_taken_out() -> None:
    for value, left in (
        ("http://me:s3cr3t@proxy:3128", f"http://{HIDDEN}proxy:3128"),
        ("https://oauth2:glpat-abcdefghij12@git.example/x.git", f"https://{HIDDEN}git.example/x.git"),
        ("a,hf_abcdefghijklmn,b", f"a,{HIDDEN},b"), ("x?token=abc&y=1", f"x?{HIDDEN}&y=1"), ("password: hunter2", HIDDEN),
        ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", HIDDEN),
        ("eyJhbGciOi.eyJzdWIiOi.c2ln", HIDDEN), ("mlx5_0:1,mlx5_1:1", "mlx5_0:1,mlx5_1:1"), ("expandable_segments:True", "expandable_segments:True"),
    ):  # fmt: skip
        assert without_credentials(value) == left


def test_a_site_sets_no_secret(tmp_path: Path) -> None:
    base = "description: a machine\ngpus_per_node: 0\ncores_per_node: 4\n"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_PASS", "PROXY_AUTH"):
        (tmp_path / "site.yaml").write_text(f"{base}environment: {{{name}: {{value: a, reason: why}}}}")
        with pytest.raises(
            UserError, match=rf"environment.{name} must not be set by a site, .* only you may read works, such as"
        ):
            load_site(str(tmp_path / "site.yaml"))
    for name in ("TOKENIZERS_PARALLELISM", "NCCL_IB_PKEY", "SSL_CERT_FILE", "KEYBOARD_LAYOUT"):
        assert not names_a_secret(name)
