"""Schema of a site: every key that a YAML of ``launch/sites`` may have."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from launch.sites.facts import PlanConfig
from pretrain.plan.machine import FigureConfig


@dataclass(frozen=True, kw_only=True)
class QosConfig:
    """A quality of service: what a job may ask for."""

    name: str = MISSING
    """Name, as ``sbatch --qos`` takes it."""
    max_hours: float = MISSING
    """Longest walltime of one job, in hours."""
    min_gpus: int = 0
    """Fewest GPUs of one job, for queues that are meant for large ones."""
    max_gpus: int | None = None
    """Most GPUs of one job; null means no limit of its own."""
    partition: str = ""
    """Partition that has these limits, where a cluster has partitions for them and no QoS: a script then names it and no QoS."""
    chain: bool = True
    """Whether long runs may be cut into a chain of jobs here; false for queues that are meant for short tests."""


@dataclass(frozen=True, kw_only=True)
class VariableConfig:
    """An environment variable of every job."""

    value: str = MISSING
    reason: str = MISSING
    """Why it is set; becomes the comment beside it in the script."""
    per_rank: bool = False
    """Whether the value is a folder in which each rank of a node has one of its own, named by its local rank."""


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
class SlowStepConfig:
    """When a run counts as slower than it should be, which ``launch status`` and the decision after a job say. Nothing is stopped.

    Each is a ratio of medians of the time of a step.
    """

    than_plan: float = 1.5
    """Tolerated slowdown against the plan. That of figures which nobody has measured is too fast: 1.28 times in the median of the
    published runs (docs/plan.md); of a measured machine 1.15 says more."""
    than_before: float = 1.15
    """Tolerated slowdown against the run's own earlier steps."""


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
class ContainerConfig:
    """How the ranks of a job run in an image, if the job names one."""

    runtime: str = MISSING
    """``apptainer`` or ``singularity``, which srun starts on each node; ``pyxis`` (Enroot) or ``edf`` (CSCS), which add options to
    srun itself. An image of ``edf`` is the name or the file of an environment definition."""
    modules: list[str] = field(default_factory=list)
    """Modules that bring the runtime; loaded where a job uses an image."""
    options: list[str] = field(default_factory=list)
    """Words given to the runtime, such as ``--nv``."""
    mounts: list[str] = field(default_factory=list)
    """Folders of the host that every job sees in its image, beside those of its code, run and working folder."""
    python: str = "python3"
    """Python of the image, with torch and our dependencies."""


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """One kind of node, and how jobs reach it."""

    base: str = ""
    """Site, or file of ``launch/sites/bases``, whose keys this one takes over where it has none of its own; resolved when a site is
    read (launch/sites/bases.py), so that it is empty in what a job has."""
    description: str = MISSING
    gpus_per_node: int = MISSING
    """GPUs per node; 0 on a site without GPUs: ranks then run on the CPUs, as many per node as the layout needs."""
    gpu_memory_gib: float | None = None
    """Memory of one GPU; null without GPUs."""
    machine: str = ""
    """Figures of its nodes for `fanal plan`: the name of a file in pretrain/plan/machines, or a path; empty if there are none."""
    cores_per_node: int = MISSING
    """Cores a job may have of one node, as Slurm counts them under ``hint``."""
    gpu_name: str = ""
    """Name of a GPU as PyTorch reports it, or its start; its peak is in pretrain/model/flops.py. Empty if unknown."""
    architecture: str = ""
    """Processor of the nodes as ``uname -m`` says: x86_64 or aarch64. Empty if unknown."""
    internet: str = "login"
    """Nodes that reach the internet: everywhere, login or nowhere."""
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
    cores_of_ranks: list[str] = field(default_factory=list)
    """Cores of each local rank, such as ``49-55``, where the kernel does not say which are beside a GPU, or says the same of two.
    Empty for what ``bind_numa`` says."""
    whole_node_memory: bool = False
    """Whether a job on all GPUs of its nodes asks for all of their memory, which elsewhere follows the cores."""
    container: ContainerConfig | None = None
    """Null where no runtime is known: ranks then run on the node itself."""
    stop_margin_s: int = 600
    """Seconds before the end of a job at which the run is told to stop and save."""
    max_restarts_without_checkpoint: int = 3
    """Number of restarts in a row without a new checkpoint after which the chain stops."""
    restarts_inside: int = 1
    """Of these, how many may be inside the allocation of a job, before it goes back to the queue, where it may get other nodes;
    0 has every restart wait in the queue."""
    node_check: NodeCheckConfig = field(default_factory=NodeCheckConfig)
    slow_step: SlowStepConfig = field(default_factory=SlowStepConfig)
    encode: EncodeConfig | None = None
    """Nodes for CPU work; null where it runs on the same nodes in the same way as training."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """Figures for `fanal plan`, each with its source."""
