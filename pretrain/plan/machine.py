"""A machine: figures of one kind of GPU and of the node it is in, each with its source. One YAML file each, in ``machines``.

A new machine is a copy of one there; ``--gpu`` takes the name of a file there, or a path. A figure whose source begins with
"assumed" was measured nowhere: replace it by what your own machine gives.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from omegaconf import MISSING

from fanal.errors import UserError, user_path
from pretrain.config.load import read_mapping, typed

MACHINES = Path(__file__).parent / "machines"
DEVICES = ("cuda", "cpu")
LARGEST = 1e9
"""Largest value of a figure in any unit, and its inverse the least: with these no sum of a plan is infinite."""
RANGES = {"step_factor": (0.1, 100.0)}
"""Least and largest value of figures for which more, or less, is a slip of the hand."""
MOST_PER_NODE = 4_096
"""GPUs, or ranks on cores, that a node may have; more is a slip of the hand."""
ASSUMED = "assumed"
"""How the source of a figure begins that was neither measured nor published."""


@dataclass(frozen=True, kw_only=True)
class FigureConfig:
    """A number and where it comes from."""

    value: float = MISSING
    source: str = MISSING
    """Data sheet, publication, or command that measured it; ``assumed: why`` where there is none."""


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """One kind of GPU, the node it is in and the network between nodes. Bandwidths are of one GPU, in one direction."""

    description: str = MISSING
    device: str = "cuda"
    """``cuda``, or ``cpu`` for a machine whose ranks are on cores: what the figures call a GPU is then the cores of one rank."""
    device_name: str = ""
    """How the name of its device begins in the log of a run: that of a GPU as PyTorch reports it, or cpu. A run on another device
    does not calibrate this machine."""
    gpus_per_node: FigureConfig = MISSING
    """GPUs that node_gb_per_s joins."""
    memory_gib: FigureConfig = MISSING
    """Memory of a GPU."""
    bf16_tflops: FigureConfig = MISSING
    """Dense peak of matrix products in bf16, TFLOP/s."""
    fp32_tflops: FigureConfig = MISSING
    """Dense peak of matrix products in fp32, TFLOP/s."""
    memory_gb_per_s: FigureConfig = MISSING
    """Peak bandwidth of the GPU's memory, GB/s."""
    node_gb_per_s: FigureConfig = MISSING
    """Bandwidth between GPUs of a node, GB/s."""
    network_gb_per_s: FigureConfig = MISSING
    """Bandwidth between nodes, GB/s."""
    node_latency_us: FigureConfig = MISSING
    """Time of a collective of no bytes inside a node, microseconds."""
    network_latency_us: FigureConfig = MISSING
    """The same between nodes."""
    product_fraction: FigureConfig = MISSING
    """Share of the peak that large matrix products reach."""
    attention_fraction: FigureConfig = MISSING
    """Share of the peak that torch's or flash-attn 2's causal attention reaches, forward and backward."""
    flash3_fraction: FigureConfig = MISSING
    """The same of flash-attn 3 and 4."""
    memory_fraction: FigureConfig = MISSING
    """Share of the memory bandwidth that elementwise kernels reach."""
    fp32_product_fraction: FigureConfig | None = None
    """Share of the fp32 peak that products in fp32 reach; null: product_fraction. So it is with the next two."""
    fp32_attention_fraction: FigureConfig | None = None
    """Share of the fp32 peak that attention in fp32 reaches."""
    fp32_memory_fraction: FigureConfig | None = None
    """Share of the memory bandwidth that elementwise kernels reach in fp32, the optimizer's among them."""
    collective_fraction: FigureConfig = MISSING
    """Share of a bandwidth that large collectives reach."""
    sum_fraction: FigureConfig | None = None
    """Share of a bandwidth that large sums reach, which are reduce-scatters, as a ring counts them; null: collective_fraction."""
    node_sum_latency_us: FigureConfig | None = None
    """Time of a sum of no bytes inside a node, microseconds; null: node_latency_us."""
    host_ms_per_layer: FigureConfig = MISSING
    """Time of the host to start the kernels of one layer of one micro batch, forward and backward, in milliseconds."""
    step_factor: FigureConfig | None = None
    """How many times as long a real step takes as all other figures say of its parts, from runs; null: as long."""
    watts: FigureConfig | None = None
    """Power of a GPU under load: the limit of its data sheet, or a measurement; null where it is not known."""


def load_machine(name: str, *, key: str = "--gpu") -> MachineConfig:
    """Return the machine of this name, or of the YAML file at this path.

    Args: key: the option, or the key of a file, that names it.
    Raises: UserError naming the machines there are, or the figure and the rule it breaks.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else MACHINES / f"{name}.yaml"
    with user_path(path):
        is_file = path.is_file()
        is_folder = is_path and path.is_dir()
    if is_folder:
        raise UserError(
            f"{key} ({name}) must be a YAML file, and it is a folder; known are {', '.join(known_machines())}, and the path of a "
            "file works, too"
        )
    if not is_file or (not is_path and name not in known_machines()):
        raise UserError(
            f"{key} ({name}) is not known; known are {', '.join(known_machines())}, and the path of a YAML file works, too"
        )
    tree = read_mapping(path, MachineConfig, what="machine", example="description: NVIDIA H100 SXM")
    machine = typed([tree], MachineConfig, where=str(path), variable="${}")
    _check(machine, str(path))
    return machine


def known_machines() -> list[str]:
    """Return the names that ``load_machine`` takes."""
    return sorted(path.stem for path in MACHINES.glob("*.yaml"))


def assumed_figures(machine: MachineConfig) -> list[str]:
    """Return the names of figures that were neither measured nor published."""
    return [name for name, figure in figures(machine) if figure.source.startswith(ASSUMED)]


def figures(machine: MachineConfig) -> list[tuple[str, FigureConfig]]:
    """Return the figures of a machine that are known, by their names."""
    values = ((one.name, getattr(machine, one.name)) for one in fields(machine))
    return [(name, value) for name, value in values if isinstance(value, FigureConfig)]


def _check(machine: MachineConfig, where: str) -> None:
    if machine.device not in DEVICES:
        raise UserError(f"{where}: device ({machine.device}) must be cuda or cpu; cuda works")
    for name, figure in figures(machine):
        least, largest = RANGES.get(name, (1 / LARGEST, 1.0 if name.endswith("fraction") else LARGEST))
        if not least <= figure.value <= largest:
            rule = f"from {least:g} to {largest:g}"
            raise UserError(f"{where}: {name}.value ({figure.value:g}) must be {rule}; 1 works")
        if name == "gpus_per_node" and not (figure.value.is_integer() and figure.value <= MOST_PER_NODE):
            raise UserError(
                f"{where}: {name}.value ({figure.value:g}) must be a whole number up to {MOST_PER_NODE}; 8 works"
            )
        if not figure.source.strip():
            raise UserError(f"{where}: {name}.source must say where the value comes from; 'assumed: a guess' works")
