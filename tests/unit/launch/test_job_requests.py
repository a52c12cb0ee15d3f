"""Errors before the queue: each names the value, the rule and what works."""

import re
from pathlib import Path

import pytest

from launch.chain.request import Job, Places, Request, check_run_dir, plan_job
from launch.chain.script import files_of, script
from launch.sites.site import load_site
from pretrain.config.load import load_run

ROOT = Path(__file__).parents[3]
PLACES = Places(workdir=Path("/project"), code_dir=Path("/project"), python=Path("/project/.venv/bin/python"))


def plan(config: str = "1b.yaml", *overrides: str, site: str = "jean-zay-h100", **asked: object) -> Job:
    request = Request(**{"nodes": 2, "hours": 10.0, "account": "xyz@h100", **asked})
    return plan_job(load_run(ROOT / "configs" / config, overrides), site, load_site(site), request, PLACES)


LUCIE = "lucie-7b/pretrain.yaml"
ERRORS = {
    "fewer spare nodes than none": ((LUCIE,), {"nodes": 128, "spare_nodes": -1}, r"--spare-nodes \(-1\) must be at least 0; "),
    "layout, stated replicas": (
        (LUCIE,), {"nodes": 64},
        r"64 nodes x 4 GPUs = 256 ranks must be the 512 of the layout \(TP4 x PP4 x DP32\); --nodes 128 works, or parallel.data_parallel_size=16",
    ),
    "layout, whole replicas": (
        (LUCIE, "parallel.data_parallel_size=null"), {"nodes": 6},
        r"6 nodes x 4 GPUs = 24 ranks must be whole replicas of 16 ranks \(TP4 x PP4\); --nodes 8 works",
    ),
    "batch": (("1b.yaml",), {"nodes": 3}, r"train.global_batch_size \(256\) must be a multiple of"),
    "hours over a QoS without chains": (
        ("1b.yaml",), {"hours": 5.0, "qos": "qos_gpu_h100-dev"},
        r"--hours \(5\) must not be above the 2 h that qos qos_gpu_h100-dev allows a job; --qos qos_gpu_h100-t3 fits",
    ),
    "hours of a slice over the QoS": (
        ("1b.yaml",), {"hours": 60.0, "slice_hours": 30.0},
        r"--slice-hours \(30\) must not be above the 20 h that qos qos_gpu_h100-t3 allows a job; --qos qos_gpu_h100-t4 fits",
    ),
    "hours of a slice over every QoS": (
        (LUCIE,), {"nodes": 128, "hours": 60.0, "slice_hours": 30.0},
        r"--slice-hours \(30\) must not be above the 20 h that qos qos_gpu_h100-t3 allows a job; --slice-hours 20 works$",
    ),
    "a chain of short jobs in a QoS without chains": (
        ("1b.yaml",), {"hours": 60.0, "slice_hours": 2.0, "qos": "qos_gpu_h100-dev"},
        r"--slice-hours \(2\) must not cut --hours \(60\) into a chain of jobs in qos qos_gpu_h100-dev, .*; --qos qos_gpu_h100-t3 fits$",
    ),
    "GPUs over the QoS": (
        (LUCIE,), {"nodes": 128, "qos": "qos_gpu_h100-t4"},
        "512 GPUs are more than the 64 that qos qos_gpu_h100-t4 allows; --qos qos_gpu_h100-t3 works",
    ),
    "GPUs over every QoS": (
        (LUCIE, "parallel.data_parallel_size=null", "train.batch_ramp=null"), {"nodes": 256},
        "1024 GPUs are more than the 512 that qos qos_gpu_h100-t3 allows; 512 GPUs are the most here",
    ),
    "an unknown QoS": (("1b.yaml",), {"qos": "long"}, r"--qos \(long\) is not one of jean-zay-h100; it has: qos_gpu_h100-t3, "),
    "no walltime": (
        ("1b.yaml",), {"hours": None},
        "--hours must say how long to run: a job that asks for none gets 10 minutes; --hours 20 works",
    ),
    "no time at all": (("1b.yaml",), {"hours": 0.0}, r"--hours \(0.0\) must be above 0 and finite"),
    "an endless time": (("1b.yaml",), {"hours": float("nan")}, r"--hours \(nan\) must be above 0 and finite"),
    "an account without suffix": (
        ("1b.yaml",), {"account": "xyz"},
        r"--account \(xyz\) must be a project followed by @h100 on jean-zay-h100, where hours are .* kind of node; --account xyz@h100 works$",
    ),
    "an account without a project": (("1b.yaml",), {"account": "@h100"}, r"--account \(@h100\) .*; --account xyz@h100 works, with your project"),
    "an account of two kinds": (("1b.yaml",), {"account": "xyz@v100@h100"}, "--account xyz@h100 works"),
    "an account of another kind of node": (("1b.yaml",), {"account": "xyz@v100"}, "--account xyz@h100 works"),
    "no account": (("1b.yaml",), {"account": None}, "--account must be given on jean-zay-h100; --account xyz@h100 works"),
    "a run folder on each node's own disk": (
        ("1b.yaml", "run_dir=/tmp/mine"), {},
        r"run_dir \(/tmp/mine\) lies on /tmp of jean-zay-h100, which every node has for itself; one of HOME, WORK, SCRATCH, DSDIR works",
    ),
    "an account of two lines": (("1b.yaml",), {"account": "xyz\n@h100"}, r"--account \('xyz\\n@h100'\) must be one word"),
    "nodes apart by a space": (("1b.yaml",), {"exclude": ("n1 n2",)}, r"--exclude \('n1 n2'\) must be names of nodes"),
    "an open bracket": (
        ("1b.yaml",), {"exclude": ("n[1",)},
        r"--exclude \('n\[1'\) must be names of nodes, or groups of them such as n\[7-9,12\], .*; --exclude n1,n\[7-9\] works",
    ),
    "a bracket without numbers": (("1b.yaml",), {"exclude": ("n[]",)}, r"--exclude \('n\[\]'\) must be names of nodes"),
    "a module without a name": (("1b.yaml",), {"modules": ("",)}, r"--module \(''\) must be one word"),
    "a run folder with a backslash": (("1b.yaml", "run_dir='a\\b'"), {}, "run_dir .* must hold no backslash, tab or end of line"),
    "more than ten years": (("1b.yaml",), {"hours": 1e9}, r"--hours \(1e\+09\) must not be above 100,000"),
    "too many jobs": (("1b.yaml",), {"hours": 20.0, "slice_hours": 0.001}, "would be 20,000 jobs, and must not be more than 1,000; --slice-hours 20 works"),
    "no slice at all": (("1b.yaml",), {"hours": 60.0, "slice_hours": 0.0}, r"--slice-hours \(0.0\) .*; --slice-hours 20 works"),
    "a slice of no time": (("1b.yaml",), {"hours": 20.0, "slice_hours": 5e-324}, "would be inf jobs, .*; --slice-hours 20 works"),
    "too many jobs of a QoS": (("1b.yaml",), {"hours": 50_000.0}, "would be 2,500 jobs, .*; --hours 20000 works$"),
    "the folder of the code": (("1b.yaml", "run_dir=."), {}, r"run_dir \(/project\) must not be the folder of the code.*; runs/mine works"),
    "more notice than Slurm gives": (("1b.yaml",), {"hours": 20.0, "stop_margin_s": 70_000}, "must not be above 65535"),
    "no nodes": (("1b.yaml",), {"nodes": 0}, r"--nodes \(0\) must be at least 1; --nodes 1 works"),
    "nodes without end": (("1b.yaml",), {"nodes": 10**15}, r"--nodes \(10+\) must not be above 100,000, more than any machine has; --nodes 1 works"),
    "a replica of many nodes": (
        ("1b.yaml", "model.num_layers=10000", "parallel.pipeline_model_parallel_size=10000", "train.global_batch_size=8192"), {"nodes": 3},
        r"3 nodes x 4 GPUs = 12 ranks must be whole replicas of 10000 ranks \(TP1 x PP10000\); --nodes 2500 works",
    ),
    "a CPU config on GPUs": (("tiny.yaml",), {"nodes": 1}, r"parallel.device \(cpu\) must be cuda or auto on jean-zay-h100"),
    "more GPUs than a node has": (("1b.yaml",), {"nodes": 1, "gpus_per_node": 5}, r"--gpus-per-node \(5\) must be from 1 to the 4"),
    "parts of several nodes": (("1b.yaml",), {"gpus_per_node": 2}, r"--gpus-per-node \(2\) must be all 4 on several nodes \(2\)"),
    "no time left to train": (("1b.yaml",), {"hours": 0.1}, "600.* must be above 0 and below the 360 s of a job; --stop-margin-s 36 works"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_a_request_that_cannot_run_is_refused_before_the_queue(name: str) -> None:
    config, asked, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        plan(*config, **asked)


@pytest.mark.parametrize("key", ["run_dir", "data.tokenizer", "checkpoint.init_from"])
def test_a_path_that_compute_nodes_cannot_reach_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", "/archive/store")
    with pytest.raises(
        ValueError, match=rf"{key} \(/archive/store/x\) lies on STORE of jean-zay-h100, which compute nodes cannot"
    ):
        plan("1b.yaml", f"{key}=/archive/store/x")


def test_a_shard_that_compute_nodes_cannot_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", "/archive/store")
    with pytest.raises(ValueError, match=r"data.train\[0\].prefix \(/archive/store/s\)"):
        plan("1b.yaml", "data.train=[{prefix: /archive/store/s}]")


def test_a_precision_that_the_gpus_do_not_compute_is_refused() -> None:
    refused = r"train.precision \(bf16\) is not supported by the GPUs of jean-zay-v100, .* fp16, .* is not implemented; train.precision=fp32"
    with pytest.raises(ValueError, match=refused):
        plan("1b.yaml", site="jean-zay-v100", account="xyz@v100")
    job = plan("1b.yaml", "train.precision=fp32", site="jean-zay-v100", account="xyz@v100")
    assert job.run.train.precision == "fp32"


@pytest.mark.parametrize(
    ("hours", "slices", "minutes"), [(20, 1, 1200), (21, 2, 630), (60, 3, 1200), (0.5, 1, 30), (100, 5, 1200)]
)
def test_hours_become_jobs_of_equal_length(hours: float, slices: int, minutes: int) -> None:
    job = plan(hours=hours)
    assert (job.slices, job.minutes, job.qos) == (slices, minutes, "qos_gpu_h100-t3")


def test_nodes_to_exclude_may_be_groups_with_commas() -> None:
    for given in ("n1", "n1,n[7-9]", "n[1-3,5],m-02.x", "r[1-2]n[01-10]"):
        assert ",".join(plan(exclude=tuple(given.split(","))).exclude) == given


def test_the_folder_of_the_code_behind_a_link_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "code")
    with pytest.raises(ValueError, match="must not be the folder of the code"):
        check_run_dir(tmp_path / "link", tmp_path / "code")
    check_run_dir(tmp_path / "code" / "runs", tmp_path / "code")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    check_run_dir(tmp_path / "circle", tmp_path / "code")  # no folder of code; who writes there says what is wrong


def test_a_single_job_in_a_qos_without_chains_may_name_its_slice() -> None:
    job = plan(hours=2.0, slice_hours=2.0, qos="qos_gpu_h100-dev")
    assert (job.slices, job.minutes) == (1, 120)


def test_an_account_of_a_site_without_suffix_needs_a_project() -> None:
    assert plan("1b.yaml", site="generic", account="abc").account == "abc"
    with pytest.raises(
        ValueError, match=r"--account \(@h100\) must name a project before the @; --account xyz@h100 works"
    ):
        plan("1b.yaml", site="generic", account="@h100")


def test_a_long_qos_takes_a_small_run_in_one_job() -> None:
    job = plan(hours=90, qos="qos_gpu_h100-t4")
    assert (job.slices, job.minutes) == (1, 5400)


def test_part_of_a_node_brings_its_share_of_the_cores() -> None:
    assert plan(nodes=1, gpus_per_node=1).cores == 24


def test_tensor_parallelism_across_nodes_is_warned_of() -> None:
    job = plan("1b.yaml", "parallel.tensor_model_parallel_size=8")
    assert any("spans nodes of 4 GPUs" in warning for warning in job.warnings)


CONTEXT = "parallel.context_parallel_size"
LONG = ("1b.yaml", "train.global_batch_size=240", "train.micro_batch_size=2", "data.seq_length=4096")


@pytest.mark.parametrize(("tensor", "context"), [(1, 8), (2, 4), (4, 2), (1, 3), (2, 6)])
def test_sequences_that_lie_on_several_nodes_are_warned_of_with_a_size_that_stays_on_one(
    tensor: int, context: int
) -> None:
    layout = (f"parallel.tensor_model_parallel_size={tensor}", f"data.seq_length={2 * tensor * context * 32}")
    (warning,) = (said for said in plan(*LONG, *layout, f"{CONTEXT}={context}", nodes=6).warnings if CONTEXT in said)
    assert f"{CONTEXT} ({context}) x parallel.tensor_model_parallel_size ({tensor}) spans nodes of 4 GPUs" in warning
    works = re.search(r"context_parallel_size=(\d+) stays on a node, with (\d+) times the activations$", warning)
    assert (works is not None) == (tensor < 4 and context % 2 == 0)
    if works is not None:
        size, times = map(int, works.groups())
        assert size * times == context and size > 1
        assert not any(CONTEXT in said for said in plan(*LONG, *layout, f"{CONTEXT}={size}", nodes=6).warnings)


def test_the_warning_of_a_sequence_across_nodes_states_what_crosses() -> None:
    (warning,) = (said for said in plan("1b.yaml", f"{CONTEXT}=8").warnings if CONTEXT in said)
    run = load_run(ROOT / "configs" / "1b.yaml")
    heads = run.model.num_query_groups * (run.model.hidden_size // run.model.num_attention_heads)
    mib = 2 * 2 * run.data.seq_length * run.train.micro_batch_size * heads // 2**20
    assert (
        mib > 0 and f"keys and values of each layer and micro batch, {mib:,} MiB, and then their gradients" in warning
    )
    for fits in (2, 4):
        assert not any(CONTEXT in said for said in plan("1b.yaml", f"{CONTEXT}={fits}").warnings)


def test_replicas_of_ranks_that_share_sequences_are_named_and_the_nodes_that_are_offered_work() -> None:
    asked = ("1b.yaml", "parallel.tensor_model_parallel_size=2", f"{CONTEXT}=4")
    with pytest.raises(
        ValueError,
        match=r"3 nodes x 4 GPUs = 12 ranks must be whole replicas of 8 ranks \(TP2 x PP1 x CP4\); --nodes 4 works",
    ):
        plan(*asked, nodes=3)
    job = plan(*asked, nodes=4)
    text = script(job, dict.fromkeys(files_of(job), "0" * 64))
    assert " parameters, TP2 x PP1 x CP4 x DP2 on 4 node(s) of 4 GPU(s), " in text
    assert "CUDA_DEVICE_MAX_CONNECTIONS" in text and "tensor and context parallelism's overlap" in text
    with pytest.raises(ValueError, match=r"must be the 24 of the layout \(TP2 x PP1 x CP4 x DP3\); --nodes 6 works"):
        plan(*asked, "parallel.data_parallel_size=3", "train.global_batch_size=240", nodes=4)


def test_on_cpus_the_layout_says_how_many_ranks_a_node_runs() -> None:
    assert plan("tiny.yaml", site="local", account=None).ranks_per_node == 2
    with pytest.raises(ValueError, match=r"--nodes \(3\) must divide the layout's 4 ranks; --nodes 2 works"):
        plan("tiny.yaml", site="local", account=None, nodes=3)


def test_two_run_folders_of_one_name_are_two_chains() -> None:
    first, second = (plan("1b.yaml", f"run_dir=/{place}/mine").name for place in ("a", "b"))
    assert first != second and first.startswith("fanal-mine-")
