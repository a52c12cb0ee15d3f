"""Request of a user, and the job of one or more slices that follows from it. Every error comes before the queue does."""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.run_folder import LAUNCH_DIR
from launch.chain.evaluation_rules import checked_evaluations, may_be_deleted
from launch.chain.evaluations import Evaluations
from launch.chain.spare_request import check_spare_nodes
from launch.sites.architecture import architecture_warning
from launch.sites.container import image_of
from launch.sites.hours import slices_of
from launch.sites.reach import check_reach
from launch.sites.schema import SiteConfig
from pretrain.config.derive import gathered_elements, model_parallel_size, world_size
from pretrain.config.layout_words import layout_in_words
from pretrain.config.rules import check_ranks
from pretrain.config.schema import ParallelConfig, RunConfig

MAX_NODES = 100_000
"""Largest number of nodes taken; more is a slip of the hand."""
MAX_STOP_MARGIN_S = 65_535
"""Largest margin that ``sbatch --signal`` takes, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of ``fanal launch render`` and ``submit``."""

    nodes: int
    hours: float | None
    """Hours of walltime in all; more than a job may take becomes a chain."""
    account: str | None = None
    qos: str | None = None
    slice_hours: float | None = None
    """Hours of one job of a chain; None takes what the QoS allows."""
    gpus_per_node: int | None = None
    """GPUs per node where that is fewer than the node has, on one node; None takes all."""
    stop_margin_s: int | None = None
    exclude: tuple[str, ...] = ()
    """Nodes never to run on."""
    spare_nodes: int = 0
    """Nodes that each job is given beyond those that it trains on."""
    modules: tuple[str, ...] = ()
    """Modules loaded after the site's."""
    preflight: bool = True
    node_local: bool | None = None
    """Whether to run code and packages from each node's own disk; None is what the site says, and no with an image."""
    container: str | None = None
    """Image in which ranks run, as the site's runtime names one; None runs them on the node itself."""
    evaluations: Evaluations | None = None


@dataclass(frozen=True, kw_only=True)
class Places:
    """Absolute paths that a job needs."""

    workdir: Path
    """Folder from which relative paths of the config count."""
    code_dir: Path
    python: Path


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a job's script says."""

    run: RunConfig
    site: SiteConfig
    site_name: str
    places: Places
    run_dir: Path
    nodes: int
    gpus_per_node: int
    """GPUs per node; 0 on CPUs."""
    ranks_per_node: int
    cores: int
    """Cores of each node, for all its ranks."""
    minutes: int
    """Walltime of one slice, in minutes."""
    slices: int
    account: str
    qos: str
    stop_margin_s: int
    exclude: tuple[str, ...]
    modules: tuple[str, ...]
    preflight: bool
    node_local: bool
    warnings: tuple[str, ...]
    spare_nodes: int = 0
    """Nodes that a job has beyond ``nodes``, those that it trains on."""
    container: str = ""
    """Image in which ranks run; empty where they run on the node itself."""
    evaluations: Evaluations | None = None

    @property
    def name(self) -> str:
        """Name of the Slurm job: slices of one run folder wait for each other by it."""
        return job_name(self.run_dir)

    @property
    def folder(self) -> Path:
        """Folder of the script and of all that belongs to its jobs."""
        return launch_dir(self.run_dir)


def absolute(path: str | Path, workdir: Path) -> Path:
    """Return the path from the root on, with symbolic links left as users know them."""
    return Path(os.path.normpath(workdir / path))


def launch_dir(run_dir: Path) -> Path:
    """Return the folder of a run that belongs to its jobs."""
    return run_dir / LAUNCH_DIR


def job_name(run_dir: Path) -> str:
    """Return a name that is the same for every job of an absolute run_dir, and for no other: readable, with a hash of
    the path."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "-", run_dir.name)[:40]
    return f"fanal-{readable}-{hashlib.sha256(str(run_dir).encode()).hexdigest()[:6]}"


def plan_job(run: RunConfig, site_name: str, site: SiteConfig, request: Request, places: Places) -> Job:
    """Check a request against the run and the site.

    Raises: UserError naming the option or key, its value, the rule and what works.
    """
    gpus, ranks_per_node = check_nodes(run, site, site_name, nodes=request.nodes, gpus_per_node=request.gpus_per_node)
    check_spare_nodes(request.spare_nodes, gpus_per_node=request.gpus_per_node, most=MAX_NODES - request.nodes)
    qos, minutes, slices = slices_of(
        site,
        site_name,
        hours=request.hours,
        slice_hours=request.slice_hours,
        qos=request.qos,
        num_gpus=(request.nodes + request.spare_nodes) * gpus,
    )
    margin = site.stop_margin_s if request.stop_margin_s is None else request.stop_margin_s
    if not 0 < margin < minutes * 60:
        raise UserError(
            f"the time kept for the last checkpoint (--stop-margin-s, or the site's stop_margin_s: {margin}) must be above 0 and "
            f"below the {minutes * 60} s of a job; --stop-margin-s {max(1, minutes * 6)} works"
        )
    if margin > MAX_STOP_MARGIN_S:
        raise UserError(
            f"the time kept for the last checkpoint (--stop-margin-s, or the site's stop_margin_s: {margin}) must not be above "
            f"{MAX_STOP_MARGIN_S}, the most that sbatch --signal takes; --stop-margin-s 600 works"
        )
    check_word("--qos", request.qos, example="normal")
    for name in ("qos", "partition"):
        check_word(f"--evaluate-{name}", getattr(request.evaluations, name, None), example="normal")
    _check_node_list(request.exclude)
    for module in request.modules:
        check_word("--module", module, example="cuda/12.4")
    run_dir = absolute(run.run_dir, places.workdir)
    check_run_dir(run_dir, places.code_dir)
    check_reach(run, site, site_name, run_dir=run_dir, places=[places.workdir, places.code_dir, places.python])
    image = image_of(site, site_name, request.container)
    evaluations = checked_evaluations(request.evaluations, run, container=image, workdir=places.workdir)
    deleted = may_be_deleted(evaluations, run) if evaluations else None
    return Job(
        run=run, site=site, site_name=site_name, places=places, run_dir=run_dir, nodes=request.nodes, gpus_per_node=gpus,
        ranks_per_node=ranks_per_node, cores=_cores(site, gpus, ranks_per_node), minutes=minutes, slices=slices,
        account=account(site.account_suffix, site.needs_account, site_name, request.account), qos=qos,
        stop_margin_s=margin, exclude=request.exclude, container=image, spare_nodes=request.spare_nodes,
        modules=(*site.modules, *(site.container.modules if site.container and image else ()), *request.modules),
        preflight=request.preflight, node_local=_node_local(site, site_name, request),
        warnings=(*_warnings(run, site, gpus), *architecture_warning(site, site_name), *([deleted] if deleted else [])),
        evaluations=evaluations,
    )  # fmt: skip


def check_nodes(
    run: RunConfig, site: SiteConfig, site_name: str, *, nodes: int, gpus_per_node: int | None
) -> tuple[int, int]:
    """Return (GPUs, ranks) of each node, if the layout and the batch of a run can use them.

    Args: gpus_per_node, fewer than a node has; None takes all.
    Raises: UserError naming the option or key, its value, the rule and what works.
    """
    if nodes < 1:
        raise UserError(f"--nodes ({nodes}) must be at least 1; --nodes 1 works")
    if nodes > MAX_NODES:
        raise UserError(
            f"--nodes ({nodes}) must not be above {MAX_NODES:,}, more than any machine has; --nodes 1 works"
        )
    gpus = _gpus_per_node(site, site_name, nodes, gpus_per_node)
    _check_device(run, site, site_name)
    ranks_per_node = gpus or _cpu_ranks_per_node(run.parallel, nodes)
    _check_layout(run, nodes, ranks_per_node, "GPUs" if gpus else "ranks")
    return gpus, ranks_per_node


def check_word(option: str, given: str | None, *, example: str) -> None:
    """Refuse a value that cannot be one word of a directive.

    Raises: UserError naming the option, its value and one that works.
    """
    if given is not None and not re.fullmatch(r"[A-Za-z0-9_.,:/@+=\[\]-]+", given):
        raise UserError(
            f"{option} ({given!r}) must be one word, of letters, digits and _.,:/@+=[]-; {option} {example} works"
        )


def check_path(option: str, path: Path) -> None:
    r"""Refuse a path that no directive can name: a \ switches off Slurm's patterns, control characters end a line.

    Raises: UserError naming the option and the path.
    """
    if "\\" in str(path) or not str(path).isprintable():
        raise UserError(f"{option} ({str(path)!r}) must hold no backslash, tab or end of line; runs/mine works")


def check_run_dir(run_dir: Path, code_dir: Path) -> None:
    """Refuse a run folder that no directive can name, or whose launch folder is that of this program.

    Raises: UserError naming the path, the rule and a path that works.
    """
    check_path("run_dir", run_dir)
    if os.path.realpath(launch_dir(run_dir)) == os.path.realpath(code_dir / "launch"):
        raise UserError(
            f"run_dir ({run_dir}) must not be the folder of the code: job.sbatch, job.json and what belongs to jobs would lie "
            "among its files, in launch; runs/mine works"
        )


def account(suffix: str, needed: bool, site_name: str, given: str | None) -> str:
    """Return the account, if it is one that the scheduler takes here; empty if none is needed or given.

    Raises: UserError if it is missing, or does not end in the suffix of its kind of node.
    """
    check_word("--account", given, example=f"xyz@{suffix}" if suffix else "xyz")
    if not given:
        if needed:
            example = f"xyz@{suffix}" if suffix else "xyz"
            raise UserError(
                f"--account must be given on {site_name}; --account {example} works, with your project in place of xyz"
            )
        return ""
    project, at, kind = given.partition("@")
    if suffix and (not project or kind != suffix):
        raise UserError(
            f"--account ({given}) must be a project followed by @{suffix} on {site_name}, where hours are granted by kind of "
            f"node; --account {project or 'xyz'}@{suffix} works"
            + ("" if project else ", with your project in place of xyz")
        )
    if not project:
        raise UserError(f"--account ({given}) must name a project before the {at}; --account xyz{given} works")
    return given


def _check_node_list(nodes: tuple[str, ...]) -> None:
    """Refuse names that sbatch would not take for nodes. Commas inside brackets split items here: only the joined text
    tells."""
    group = r"\[\d+(-\d+)?(,\d+(-\d+)?)*\]"
    item = rf"[A-Za-z0-9_.-]+({group}[A-Za-z0-9_.-]*)*"
    given = ",".join(nodes)
    if nodes and not re.fullmatch(f"{item}(,{item})*", given):
        raise UserError(
            f"--exclude ({given!r}) must be names of nodes, or groups of them such as n[7-9,12], with commas between; "
            "--exclude n1,n[7-9] works"
        )


def _gpus_per_node(site: SiteConfig, site_name: str, nodes: int, wanted: int | None) -> int:
    if wanted is None or wanted == site.gpus_per_node:
        return site.gpus_per_node
    if not 1 <= wanted <= site.gpus_per_node:
        works = f"--gpus-per-node {site.gpus_per_node} works" if site.gpus_per_node else "leave it out"
        raise UserError(
            f"--gpus-per-node ({wanted}) must be from 1 to the {site.gpus_per_node} GPUs of a node of {site_name}; {works}"
        )
    if nodes > 1:
        raise UserError(
            f"--gpus-per-node ({wanted}) must be all {site.gpus_per_node} on several nodes ({nodes}): others would share "
            f"their network; --gpus-per-node {site.gpus_per_node} works"
        )
    return wanted


def _cpu_ranks_per_node(parallel: ParallelConfig, nodes: int) -> int:
    """Return the CPU ranks of each node: without GPUs the layout says how many ranks there are, and they are spread evenly."""
    ranks = world_size(parallel)
    if ranks % nodes:
        works = next(count for count in range(min(nodes, ranks), 0, -1) if ranks % count == 0)
        raise UserError(f"--nodes ({nodes}) must divide the layout's {ranks} ranks; --nodes {works} works")
    return ranks // nodes


def _check_device(run: RunConfig, site: SiteConfig, site_name: str) -> None:
    if site.gpus_per_node and run.parallel.device == "cpu":
        raise UserError(
            f"parallel.device (cpu) must be cuda or auto on {site_name}, whose nodes have {site.gpus_per_node} GPUs; "
            "parallel.device=auto works"
        )
    if not site.gpus_per_node and run.parallel.device == "cuda":
        raise UserError(
            f"parallel.device (cuda) must be cpu or auto on {site_name}, which has no GPUs; parallel.device=auto works"
        )
    if site.gpus_per_node and not site.bf16 and run.train.precision == "bf16":
        raise UserError(
            f"train.precision (bf16) is not supported by the GPUs of {site_name}, which compute in fp16 and fp32, and fp16, which "
            "needs loss scaling, is not implemented; train.precision=fp32 works, at the pace of their fp32 units and without their "
            "tensor cores"
        )


def _check_layout(run: RunConfig, nodes: int, ranks_per_node: int, what: str) -> None:
    ranks, replica = nodes * ranks_per_node, model_parallel_size(run.parallel)
    stated = run.parallel.data_parallel_size
    needed = replica * stated if stated else None
    if (needed is None and ranks % replica) or needed not in (None, ranks):
        given = f"{nodes} nodes x {ranks_per_node} {what} = {ranks} ranks"
        if needed is None:
            least = replica // math.gcd(replica, ranks_per_node)  # nodes of whole replicas
            works = -(-nodes // least) * least
            raise UserError(
                f"{given} must be whole replicas of {replica} ranks ({layout_in_words(run.parallel)}); --nodes {works} works"
            )
        if needed % ranks_per_node == 0:
            works = f"--nodes {needed // ranks_per_node} works"
        else:
            works = f"no number of nodes gives {needed}; parallel.data_parallel_size=null takes all nodes"
        if ranks % replica == 0:
            works += f", or parallel.data_parallel_size={ranks // replica}"
        layout = layout_in_words(run.parallel, replicas=stated)
        raise UserError(f"{given} must be the {needed} of the layout ({layout}); {works}")
    check_ranks(run, ranks)


def _cores(site: SiteConfig, gpus: int, ranks: int) -> int:
    """Return the cores of one node: a GPU brings its share, and a CPU rank needs one."""
    return site.cores_per_node * gpus // site.gpus_per_node if gpus else min(site.cores_per_node, ranks)


def _node_local(site: SiteConfig, site_name: str, request: Request) -> bool:
    if request.node_local and not site.node_local_dir:
        raise UserError(
            f"--node-local needs node_local_dir, which site {site_name} leaves empty; /dev/shm works on most nodes"
        )
    if request.node_local and request.container:
        raise UserError(
            f"--node-local must not be given with --container ({request.container}), whose packages are in the image; "
            "--no-node-local works"
        )
    return (site.node_local and not request.container) if request.node_local is None else request.node_local


def _context_across_nodes(run: RunConfig, gpus: int) -> list[str]:
    """Return a warning if ranks that share a sequence lie on several nodes.

    Megatron counts ranks through tensor parallelism first, then context, data and pipeline parallelism: the ranks of a sequence are
    neighbours, as far apart as those of a weight leave them.
    """
    tensor, context = run.parallel.tensor_model_parallel_size, run.parallel.context_parallel_size
    if context == 1 or gpus % (tensor * context) == 0:
        return []
    fits = max((size for size in range(1, context) if context % size == 0 and gpus % (tensor * size) == 0), default=1)
    elements = gathered_elements(
        run.model, run.parallel, seq_length=run.data.seq_length, micro_batch_size=run.train.micro_batch_size
    )
    mib = elements * (2 if run.train.precision == "bf16" else 4) / 2**20
    works = f"context_parallel_size={fits} stays on a node, with {context // fits} times the activations" if fits > 1 else (
        f"no context_parallel_size stays on a node beside tensor_model_parallel_size={tensor}"
    )  # fmt: skip
    return [
        f"parallel.context_parallel_size ({context}) x parallel.tensor_model_parallel_size ({tensor}) spans nodes of {gpus} GPUs: "
        f"keys and values of each layer and micro batch, {mib:,.0f} MiB, and then their gradients, cross the network; {works}"
    ]


def _warnings(run: RunConfig, site: SiteConfig, gpus: int) -> list[str]:
    found = _context_across_nodes(run, gpus) if gpus else []
    if gpus and run.parallel.tensor_model_parallel_size > gpus:
        found.append(
            f"parallel.tensor_model_parallel_size ({run.parallel.tensor_model_parallel_size}) spans nodes of {gpus} GPUs: each "
            "layer waits for the network several times; pipeline parallelism crosses nodes at far less cost"
        )
    if run.checkpoint.interval is None:
        found.append(
            "checkpoint.interval (null) writes checkpoints only when a job is told to stop: a crash loses the whole job"
        )
    if run.train.walltime_s is not None:
        found.append(
            f"train.walltime_s ({run.train.walltime_s:g}) is not needed in a job, whose end is announced by a signal"
        )
    return found
