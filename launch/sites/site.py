"""A site: a kind of node of a cluster, and the rules of its batch queue. One YAML file each, in ``launch/sites``.

A new site is a copy of ``launch/sites/generic.yaml``; ``--site`` takes the name of a file there or a path. A site is code: jobs
load its modules and set its variables, and preflight runs its quota commands, with the rights of who uses it.
"""

import math
import os
import re
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from fanal.credentials import names_a_secret
from fanal.errors import UserError, user_path
from fanal.interpolations import refuse_any_interpolation
from fanal.ownership import why_not_own
from fanal.run_folder import was_written_resolved
from launch.sites.facts import PlanConfig, check_facts
from pretrain.config.load import read_mapping, typed
from pretrain.plan.machine import FigureConfig

SITES = Path(__file__).parent
SET_BY_SCRIPTS = re.compile(
    r"(FANAL|PRETRAIN)_\w*|PYTHON|PYTHONPATH|PYTHONSAFEPATH|OMP_NUM_THREADS|SRUN_CPUS_PER_TASK|"
    r"launch_dir|run_dir|found|sha256|name|leaving|code|step|guard|old|prefix|parts|part"
)
"""Variables that scripts of jobs set for themselves: a site's would be lost, or lead them astray."""


@dataclass(frozen=True, kw_only=True)
class QosConfig:
    """A quality of service: what a job may ask for."""

    name: str = MISSING
    """Name, as ``sbatch --qos`` takes it."""
    max_hours: float = MISSING
    """Longest walltime of one job, in hours."""
    max_gpus: int | None = None
    """Most GPUs of one job; null means no limit of its own."""
    chain: bool = True
    """Whether long runs may be cut into a chain of jobs here; false for queues that are meant for short tests."""


@dataclass(frozen=True, kw_only=True)
class VariableConfig:
    """An environment variable of every job."""

    value: str = MISSING
    reason: str = MISSING
    """Why it is set; becomes the comment beside it in the script."""


@dataclass(frozen=True, kw_only=True)
class FileSystemConfig:
    """A file system that users know by a name."""

    name: str = MISSING
    roots: list[str] = field(default_factory=list)
    """Paths below which it lies; a ``$VARIABLE`` counts where it is set."""
    on_compute_nodes: bool = True
    """Whether compute nodes can reach it."""
    shared: bool = True
    """False for disks that every node has for itself: a run folder or data there would be another one on each node."""
    quota_command: str = ""
    """Command that prints how much is used and allowed; empty if there is none. It runs as the user of the site."""
    note: str = ""
    """Other facts that users must know, such as when files are removed."""
    quota_gb: float | None = None
    """Room of a user or project by default, in GB of 10^9 bytes; null where not known."""
    quota_files: int | None = None
    """Files and folders (inodes) likewise."""
    write_gb_per_s: FigureConfig | None = None
    """Rate at which all ranks together write to it, in GB/s; null where not known."""


@dataclass(frozen=True, kw_only=True)
class NodeCheckConfig:
    """Tolerances of a node, against the median of the other nodes (launch/preflight/outliers.py)."""

    gemm_slower: float = 1.05
    """Tolerated slowdown in a matrix product, as a ratio."""
    copy_slower: float = 1.10
    """Tolerated slowdown in a copy of memory, as a ratio."""
    network_slower: float = 1.25
    """Tolerated slowdown in an exchange with the better neighbour, as a ratio."""
    write_slower: float = 5.0
    """Tolerated slowdown in a small write to the run folder, as a ratio: shared file systems vary."""
    clock_s: float = 2.0
    """Seconds that a clock may be off."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Nodes for CPU work: tokenization and merging."""

    partition: str = ""
    constraint: str = ""
    account_suffix: str = ""
    """Suffix of the account for this partition; empty if there is none."""
    qos: list[QosConfig] = field(default_factory=list)
    cores: int = MISSING
    """Cores that one task of the array gets."""
    merge_partition: str = ""
    """Partition of the job that merges; empty means the same."""


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """One kind of node, and how jobs reach it."""

    description: str = MISSING
    gpus_per_node: int = MISSING
    """GPUs per node; 0 on a site without GPUs: ranks then run on the CPUs, as many per node as the layout needs."""
    gpu_memory_gib: float | None = None
    """Memory of one GPU; null without GPUs."""
    machine: str = ""
    """Figures of its nodes for `fanal plan`: the name of a file in pretrain/plan/machines, or a path; empty if there are none."""
    cores_per_node: int = MISSING
    """Cores a job may have of one node, as Slurm counts them under ``hint``."""
    bf16: bool = True
    """Whether the GPUs compute in bf16. Where they do not, runs train in fp32: fp16, with its loss scaling, is not implemented."""
    partition: str = ""
    """Partition; empty where the scheduler chooses by constraint or has one only."""
    constraint: str = ""
    account_suffix: str = ""
    """Suffix of an account here, such as ``h100`` of ``xyz@h100``; empty if accounts have no suffix."""
    needs_account: bool = False
    """Whether the scheduler refuses jobs without an account."""
    hint: str = ""
    """Value of ``sbatch --hint``, such as nomultithread."""
    default_walltime_minutes: float | None = None
    """Walltime of a job that asks for none, in minutes; null if unknown. Every script asks for one."""
    qos: list[QosConfig] = field(default_factory=list)
    """Qualities of service; the first is that of a job that names none. Empty where there are none."""
    modules: list[str] = field(default_factory=list)
    """Modules to load in this order, after ``module purge``."""
    environment: dict[str, VariableConfig] = field(default_factory=dict)
    file_systems: list[FileSystemConfig] = field(default_factory=list)
    node_local_dir: str = ""
    """A fast disk of each node's own, for code and environment; may name variables of the job. Empty if there is none."""
    node_local: bool = False
    """Whether jobs run code and packages from there unless they are asked not to: the nodes then read one file of the shared disk
    in place of thousands a rank. It takes the archive's size of each node's memory where that disk is memory."""
    bind_numa: bool = False
    """Whether to bind each rank to the cores beside its GPU (pretrain/parallel/binding.py)."""
    stop_margin_s: int = 600
    """Seconds before the end of a job at which the run is told to stop and save."""
    max_restarts_without_checkpoint: int = 3
    """Number of restarts in a row without a new checkpoint after which the chain stops."""
    node_check: NodeCheckConfig = field(default_factory=NodeCheckConfig)
    encode: EncodeConfig | None = None
    """Nodes for CPU work; null where it runs on the same nodes in the same way as training."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """Figures for `fanal plan`, each with its source."""


def load_site(name: str) -> SiteConfig:
    """Load the site of this name, or of the YAML file at this path.

    Raises: UserError naming the sites there are, or the key and the rule it breaks; or if another user may change the file.
    """
    path = _path_of(name)
    with user_path(path):
        is_file = path.is_file()
    if not is_file:
        raise UserError(
            f"site {name!r} is not known; known are {', '.join(known_sites())}, and the path of a YAML file works, too"
        )
    if path.parent != SITES:
        _check_own(path)
    return read_site(path)


def site_note(name: str) -> str:
    """Return the line that says what a site from elsewhere may do; empty for one of ours."""
    path = _path_of(name)
    return (
        "" if path.parent == SITES else f"site: {path} is code: its modules, environment and quota_command run as you"
    )


def _path_of(name: str) -> Path:
    return Path(name) if name.endswith((".yaml", ".yml")) else SITES / f"{name}.yaml"


def _check_own(path: Path) -> None:
    """Refuse a site that another user may change after its reader has looked at it."""
    with user_path(path):
        why = why_not_own(Path(os.path.realpath(path)))
    if why:
        raise UserError(
            f"site {path} must be a file that only you may change, since it runs as you, and {why}; a copy that you have read "
            f"works: `install -m 644 {shlex.quote(str(path))} my-site.yaml`"
        )


def read_site(path: Path) -> SiteConfig:
    """Read the site in a file, whoever may change it: for readers that run nothing of it. Raises: as ``load_site``."""
    tree = read_mapping(path, SiteConfig, what="site", example="gpus_per_node: 4")
    if was_written_resolved(path):
        refuse_any_interpolation(tree, where=str(path))
    site = typed([tree], SiteConfig, where=str(path), variable="${}")
    _check_quoted(tree, site, str(path))
    check_site(site, str(path))
    check_facts(site.plan, site.file_systems, str(path))
    return site


def known_sites() -> list[str]:
    """Return the names that ``load_site`` takes."""
    return sorted(path.stem for path in SITES.glob("*.yaml"))


def check_site(site: SiteConfig, where: str) -> None:
    """Refuse a site that no job can be rendered for.

    Raises: UserError naming the key, the value, the rule and what works.
    """
    for name, least in (
        ("gpus_per_node", 0),
        ("cores_per_node", 1),
        ("stop_margin_s", 1),
        ("max_restarts_without_checkpoint", 1),
    ):
        if getattr(site, name) < least:
            raise UserError(f"{where}: {name} ({getattr(site, name)}) must be at least {least}; {max(least, 1)} works")
    if site.gpus_per_node and not (
        site.gpu_memory_gib and math.isfinite(site.gpu_memory_gib) and site.gpu_memory_gib > 0
    ):
        raise UserError(f"{where}: gpu_memory_gib ({site.gpu_memory_gib}) must say the memory of one GPU; 80 works")
    if site.encode and site.encode.cores < 1:
        raise UserError(f"{where}: encode.cores ({site.encode.cores}) must be at least 1; 8 works")
    _check_qos(site.qos, "qos", where)
    _check_qos(site.encode.qos if site.encode else [], "encode.qos", where)
    _check_words(site, where)
    _check_shell_texts(site, where)
    limits = site.node_check
    for limit in fields(limits):
        value = getattr(limits, limit.name)
        least = 0.0 if limit.name == "clock_s" else 1.0
        if not (least < value < math.inf):
            raise UserError(
                f"{where}: node_check.{limit.name} ({value}) must be above {least:g}; {limit.default} works"
            )


def _check_quoted(read: Any, made: Any, where: str, key: str = "") -> None:
    """Refuse what YAML reads as a number or a truth value where text is wanted: 010 would become 8, and 1.10 be 1.1."""
    if isinstance(read, dict):
        for name, value in read.items():
            inner = made[name] if isinstance(made, dict) else getattr(made, name)
            _check_quoted(value, inner, where, f"{key}.{name}" if key else name)
    elif isinstance(read, list):
        for number, value in enumerate(read):
            _check_quoted(value, made[number], where, f"{key}[{number}]")
    elif isinstance(made, str) and not isinstance(read, str):
        name = "" if key.endswith("]") else f"{key.split('.')[-1]}: "
        raise UserError(
            f"{where}: {key} must be text, and YAML reads it as {type(read).__name__} {read}; write it in quotes: "
            f"{name}'{made}' works"
        )


def _check_qos(offered: list[QosConfig], key: str, where: str) -> None:
    names = [qos.name for qos in offered]
    for number, qos in enumerate(offered):
        if not qos.name or names.index(qos.name) < number:
            rule = f"differ from that of {key}[{names.index(qos.name)}]" if qos.name else "not be empty"
            raise UserError(
                f"{where}: {key}[{number}].name ({qos.name!r}) must {rule}; a name that `sacctmgr show qos` lists works"
            )
        if not (0 < qos.max_hours < math.inf) or (qos.max_gpus is not None and qos.max_gpus < 1):
            raise UserError(
                f"{where}: qos {qos.name} must have max_hours ({qos.max_hours}) above 0 and max_gpus ({qos.max_gpus}) of at "
                "least 1 or null; max_hours: 20, max_gpus: null works"
            )


def _check_words(site: SiteConfig, where: str) -> None:
    """Refuse values that would not stay one word of a directive, or one line of a script."""
    encode = site.encode or EncodeConfig(cores=1)
    words = {"partition": site.partition, "constraint": site.constraint, "account_suffix": site.account_suffix}
    words |= {"hint": site.hint, "encode.partition": encode.partition, "encode.constraint": encode.constraint}
    words |= {"encode.account_suffix": encode.account_suffix, "encode.merge_partition": encode.merge_partition}
    words |= {f"name of qos {qos.name}": qos.name for qos in (*site.qos, *encode.qos)}
    for key, word in words.items():
        if re.search(r"[\s#\"'\\]", word):
            raise UserError(f"{where}: {key} ({word!r}) must be one word without quotes and #; gpu_p6 works")
    lines = {"description": site.description}
    lines |= {f"environment.{name}.reason": variable.reason for name, variable in site.environment.items()}
    for key, line in lines.items():
        if not line.isprintable():
            raise UserError(f"{where}: {key} ({line!r}) must be one line; Slurm on CPUs works")


def _check_shell_texts(site: SiteConfig, where: str) -> None:
    """Refuse values that a shell would take for more than a text: they stand in double quotes, so that $NAME is filled in."""
    for name in site.environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"{where}: environment.{name} must be the name of a variable; NCCL_DEBUG works")
        if names_a_secret(name):
            raise UserError(
                f"{where}: environment.{name} must not be set by a site, since others read it and the scripts of jobs; a file that "
                "only you may read works, such as ~/.cache/huggingface/token"
            )
        if SET_BY_SCRIPTS.fullmatch(name):
            raise UserError(
                f"{where}: environment.{name} must not be set by a site, since the scripts of jobs set it; MY_{name} works"
            )
    texts = {f"environment.{name}.value": variable.value for name, variable in site.environment.items()}
    for key, text in {**texts, "node_local_dir": site.node_local_dir}.items():
        # Not ${NAME}, since omegaconf would fill it in when a job reads its site; and no $(command), $[sum] or $1.
        if not text.isprintable() or re.search(r"[\"`\\]|\$(?![A-Za-z_])", text):
            raise UserError(
                f"{where}: {key} ({text!r}) must be one line without double quotes, ` and \\, and $ only before the name of a "
                "variable; /tmp/$USER works"
            )
    if site.node_local and not site.node_local_dir:
        raise UserError(
            f"{where}: node_local_dir, which is empty, must name a folder of each node where node_local is true; "
            "/dev/shm works on most nodes"
        )
    if site.node_local_dir and not site.node_local_dir.startswith(("/", "$")):
        raise UserError(
            f"{where}: node_local_dir ({site.node_local_dir}) must be absolute: it lies on each node; /dev/shm works"
        )
    for file_system in site.file_systems:
        command = file_system.quota_command
        if command and not _words_of(command):
            raise UserError(
                f"{where}: quota_command of file system {file_system.name} ({command!r}) must be a command, its quotes in "
                'pairs; idr_quota_user works, and "" for none'
            )


def _words_of(command: str) -> list[str]:
    """Split a command as a shell does; empty if it cannot."""
    try:
        return shlex.split(command)
    except ValueError:
        return []
