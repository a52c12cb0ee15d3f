"""Checks before a run costs anything: what can be known on a login node, and inside a job every node of it.

Every check is made even if one before it failed, so that one call tells all.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError, run_guarded, user_path
from fanal.exit_codes import CRASH, DAMAGED, FINISHED, WRONG_INPUT
from fanal.free_space import free_at, nearest_folder
from fanal.run_progress import standing, whole_steps
from launch.chain.request import absolute, check_nodes, check_run_dir
from launch.preflight import nodes as node_looks
from launch.preflight.machine_file import check_machine_file, measure_machine
from launch.preflight.node_local import archive_of_job, check_node_local
from launch.preflight.space import check_space, check_write, quota
from launch.sites.architecture import check_architecture
from launch.sites.container import IMAGE
from launch.sites.reach import check_reach, shards_of
from launch.sites.schema import SiteConfig
from launch.sites.site import load_site, site_note
from pretrain.config.derive import world_size
from pretrain.config.load import load_run_to_train
from pretrain.config.path_rules import paths_of
from pretrain.config.schema import ParallelConfig, RunConfig
from pretrain.data.passes import passes_text, passes_warning, source_passes
from pretrain.data.sources import open_sources

SLURM_COMMANDS = ("sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
SHARDS_AT_ONCE = 500
"""Shards that one command is given: with long paths, a thousand of them are more than a system takes in one."""


@dataclass(frozen=True, kw_only=True)
class PreflightRequest:
    """A run, its site and its nodes, as preflight checks them."""

    run: RunConfig
    site: SiteConfig
    site_name: str
    run_dir: Path
    """Run folder, absolute."""
    nodes: int | None
    """Number of nodes; None if it was not given and nothing says it."""
    why_nodes: str
    """Origin of the number of nodes, in words."""
    gpus_per_node: int | None
    """GPUs per node where that is fewer than a node has; None takes all."""
    deep: bool
    in_job: bool


def preflight(
    config: str,
    overrides: Sequence[str],
    site_name: str,
    *,
    nodes: int | None,
    gpus_per_node: int | None,
    deep: bool,
    machine_file: Path | None = None,
) -> int:
    """Check all, and print what was found. Returns the exit code: WRONG_INPUT before DAMAGED, CRASH for broken nodes.

    Args: machine_file: where the measured figures of this node go, once every check has passed; None measures none.
    Raises: UserError if the config or the site cannot be read, or the file of figures could not be written.
    """
    run, site = load_run_to_train(config, overrides), load_site(site_name)
    if machine_file is not None:
        check_machine_file(machine_file, site, site_name)
    if "SLURM_JOB_ID" not in os.environ and (line := site_note(site_name)):
        print(line, flush=True)
    in_job = "SLURM_JOB_ID" in os.environ and "SLURM_JOB_NUM_NODES" in os.environ
    found, why = number_of_nodes(run.parallel, site, nodes, gpus_per_node)
    asked = PreflightRequest(
        run=run, site=site, site_name=site_name, run_dir=absolute(run.run_dir, Path.cwd()), nodes=found, why_nodes=why,
        gpus_per_node=gpus_per_node, deep=deep, in_job=in_job,
    )  # fmt: skip
    print(f"config: {config} resolves", flush=True)
    codes = []
    for name, check in (
        ("ranks", ranks),
        ("paths", paths),
        ("data", data),
        ("space", space),
        ("node-local", node_local),
        ("writing", lambda asked: check_write(asked.run_dir)),
        ("quota", lambda asked: quota(asked.run_dir, asked.site)),
        ("environment", python_environment),
    ):
        codes.append(_try(name, check, asked))
    wrong = next((code for code in (CRASH, WRONG_INPUT, DAMAGED) if code in codes), FINISHED)
    if wrong or not in_job:
        print("nodes: not checked: " + ("fix the errors above first" if wrong else "this is not a job"), flush=True)
    else:
        gpus = site.gpus_per_node if gpus_per_node is None else gpus_per_node
        wrong = node_looks.look_at_nodes(site, asked.run_dir, gpus=gpus)
    if machine_file is not None and not wrong:
        print(measure_machine(machine_file, site, asked.run_dir, precision=run.train.precision), flush=True)
    return wrong


def number_of_nodes(
    parallel: ParallelConfig, site: SiteConfig, nodes: int | None, gpus_per_node: int | None
) -> tuple[int | None, str]:
    """Return (nodes of a job, where the number comes from); None if nothing says it."""
    if nodes is not None:
        return nodes, "--nodes"
    if "SLURM_JOB_NUM_NODES" in os.environ:
        said = os.environ["SLURM_JOB_NUM_NODES"]
        if not said.isdecimal():
            raise UserError(
                f"SLURM_JOB_NUM_NODES ({said!r}) must be a number of nodes, as Slurm sets it in a job; --nodes 2 works"
            )
        return int(said), "this job"
    if not site.gpus_per_node:
        return 1, "a site without GPUs: any number of nodes that divides the ranks works"
    if parallel.data_parallel_size is not None:
        of_a_node = gpus_per_node or site.gpus_per_node
        return max(1, world_size(parallel) // of_a_node), "parallel.data_parallel_size"
    return None, ""


def ranks(asked: PreflightRequest) -> str:
    """Check that layout and batch fit the nodes.

    Raises: UserError if they do not.
    """
    if asked.nodes is None:
        return "not checked: neither --nodes nor parallel.data_parallel_size says how many there are"
    _, of_a_node = check_nodes(
        asked.run, asked.site, asked.site_name, nodes=asked.nodes, gpus_per_node=asked.gpus_per_node
    )
    return f"{asked.nodes} nodes x {of_a_node} = {asked.nodes * of_a_node} ranks fit the layout ({asked.why_nodes})"


def paths(asked: PreflightRequest) -> str:
    """Check that jobs can use the run folder, and that compute nodes can reach every path.

    Raises: UserError if not.
    """
    workdir, code_dir, python = Path.cwd(), Path(__file__).parents[2], Path(sys.executable)
    check_run_dir(asked.run_dir, code_dir)
    check_reach(asked.run, asked.site, asked.site_name, run_dir=asked.run_dir, places=[workdir, code_dir, python])
    if not asked.site.file_systems:
        return f"not checked: site {asked.site_name} names no file systems"
    return "none lies where compute nodes cannot reach it"


def data(asked: PreflightRequest) -> str | int:
    """Check that shards are what their manifests say, and made by the run's tokenizer; `fanal tokenizer verify` says what is wrong.

    Returns: the exit code if something is.
    Raises: UserError if there is no such shard, or no checkpoint to start from: that is a wrong name rather than damage.
    """
    for key, path in paths_of(asked.run).items():
        needed = Path(f"{path}.json") if key.endswith(".prefix") else Path(path)
        if not needed.exists():
            what = "the prefix of a shard" if key.endswith(".prefix") else "a folder"
            raise UserError(
                f"{key} ({path}) must be {what}, and {needed} does not exist; a path from {Path.cwd()} on works"
            )
    shards = shards_of(asked.run.data)
    command, options = [sys.executable, "-m", "tokenizer", "verify"], ["--tokenizer", asked.run.data.tokenizer]
    options += ["--deep"] if asked.deep else []
    codes = [
        subprocess.run([*command, *some, *options], env=node_looks.environment()).returncode
        for some in (shards[first : first + SHARDS_AT_ONCE] for first in range(0, len(shards), SHARDS_AT_ONCE))
    ]
    if any(codes):
        code = min(code for code in codes if code)
        return code if code in (WRONG_INPUT, DAMAGED) else CRASH
    return f"{len(shards)} shards verified{'' if asked.deep else '; --deep reads all of them'}\n{passes(asked)}"


def passes(asked: PreflightRequest) -> str:
    """Return how often the run reads its sources, on a line or two.

    Raises: UserError as the run itself, for shards that it cannot be trained on.
    """
    sources, since = open_sources(asked.run), standing(asked.run_dir)
    most = max(source_passes(asked.run, sources, since), key=lambda source: source.passes)
    warning = passes_warning(asked.run, sources, since)
    said = f"passes: {passes_text(most.passes)} over {most.prefix}, the most of {len(sources.train)} sources"
    return said if warning is None else f"{said}\n{warning}"


def space(asked: PreflightRequest) -> str:
    """Check that there is room for the run's checkpoints.

    Raises: UserError if there is none.
    """
    of_a_node = asked.gpus_per_node or asked.site.gpus_per_node
    # Where nobody says how many: at least those of the layout; a rank more is a file more.
    num_ranks = asked.nodes * of_a_node if asked.nodes and of_a_node else world_size(asked.run.parallel)
    return check_space(
        asked.run, num_ranks=num_ranks, free=free_at(nearest_folder(asked.run_dir)), there=whole_steps(asked.run_dir),
        run_dir=asked.run_dir, in_job=asked.in_job,
    )  # fmt: skip


def node_local(asked: PreflightRequest) -> str:
    """Check, in a job whose nodes unpack code and packages, that they have room for them.

    Raises: UserError if this node has none.
    """
    archive = archive_of_job()
    return "" if archive is None else check_node_local(archive, Path(os.path.expandvars(asked.site.node_local_dir)))


def python_environment(asked: PreflightRequest) -> str:
    """Describe which torch and which commands of Slurm's exist here.

    Raises: UserError if this Python has no torch, or one that cannot use the site's GPUs.
    """
    if asked.in_job:  # a login node may be of another kind
        check_architecture(asked.site, asked.site_name)
    if image := os.environ.get(IMAGE):
        return f"not checked: ranks run in {image}, with its Python"
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"{sys.executable} must have torch, and it is not installed; the Python of `make install` (.venv/bin/python) works"
        ) from None
    _check_torch(torch, asked.site, asked.site_name)
    absent = [command for command in SLURM_COMMANDS if shutil.which(command) is None]
    slurm = f"Slurm's commands are missing: {', '.join(absent)}" if absent else "Slurm's commands are available"
    return f"Python {sys.version.split()[0]}, torch {torch}; {slurm}"


def _check_torch(torch: str, site: SiteConfig, site_name: str) -> None:
    """Refuse a build of torch that cannot use the site's GPUs. Raises: UserError."""
    release, _, build = torch.partition("+")
    if site.gpu_name.startswith("AMD") and not build.startswith("rocm"):
        raise UserError(
            f"torch ({torch}) must be a build for ROCm on {site_name}; {release} of the index of the site's ROCm, below "
            "https://download.pytorch.org/whl, works"
        )
    if site.gpus_per_node and (build == "cpu" or (build.startswith("rocm") and site.gpu_name.startswith("NVIDIA"))):
        raise UserError(f"torch ({torch}) must be a build for CUDA on {site_name}; {release} from PyPI works")


def _try(name: str, check: Callable[[PreflightRequest], str | int], asked: PreflightRequest) -> int:
    """Make one check and print what it found. Returns FINISHED, or the exit code for what is wrong."""

    def act() -> int:
        with user_path(asked.run_dir, *paths_of(asked.run).values()):
            said = check(asked)
        if isinstance(said, int):
            return said
        if said:
            print(f"{name}: {said}", flush=True)
        return FINISHED

    return run_guarded(act)
