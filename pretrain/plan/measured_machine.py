"""A machine whose figures were measured, as ``fanal launch preflight --write-machine`` and ``make gpu`` write it."""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import yaml

from fanal.files import write_whole
from pretrain.plan.machine import ASSUMED, FigureConfig, MachineConfig


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a rank of a machine reaches while all others are at work."""

    device: Literal["cuda", "cpu"]
    device_name: str
    precision: Literal["bf16", "fp32"]
    """Of the small model that gives the host's time."""
    ranks: int
    """Ranks that measured at once, all on one node."""
    threads: int
    """Of each rank, on a CPU."""
    memory_gib: float
    bf16_tflops: float
    """Of a square product."""
    fp32_tflops: float
    bf16_product_tflops: float
    """Of the products of a layer, forward and backward."""
    fp32_product_tflops: float
    bf16_attention_tflops: float
    fp32_attention_tflops: float
    copy_gb_per_s: float
    bf16_elementwise_gb_per_s: float
    """Of norms and activations, forward and backward."""
    fp32_elementwise_gb_per_s: float
    message_gb_per_s: float
    """Of a gather among the ranks, as a ring counts it."""
    latency_us: float
    """Of a gather of four bytes of each rank."""
    sum_gb_per_s: float
    """Of a reduce-scatter among the ranks, as a ring counts it."""
    sum_latency_us: float
    """Of one of four bytes for each rank."""
    host_ms_per_layer: float


def machine_of(
    measured: Measured,
    base: MachineConfig | None,
    *,
    node: str,
    date: datetime.date,
    exchange_gb_per_s: float | None = None,
) -> MachineConfig:
    """Return the machine that a node was measured to be.

    Args: base: the machine that its nodes were taken for, whose data sheet keeps the peaks, so that MFU stays comparable; rates are
        then fractions of these. None: the peaks are the best that was measured. Rates above a stated peak replace it.
        exchange_gb_per_s: what a node sends to another one while it receives as much; None if only one was measured.
    """
    said = f"measured, {date.isoformat()}, {node}"
    on_cpu = measured.device == "cpu"
    each = f"mean of {measured.ranks} ranks at once" + f", {measured.threads} thread each" * on_cpu
    behind = ", behind a product" * on_cpu
    group, sums = (f"{what} among {measured.ranks} ranks{behind}" for what in ("gather", "reduce-scatter"))

    def figure(value: float, what: str) -> FigureConfig:
        return FigureConfig(value=float(f"{value:.4g}"), source=f"{said}: {what}")

    def peak(name: str, best: float, what: str) -> FigureConfig:
        stated: FigureConfig | None = None if base is None else getattr(base, name)
        return stated if stated is not None and stated.value >= best else figure(best, what)

    def fraction(rate: float, of: FigureConfig, what: str) -> FigureConfig:
        return figure(min(1.0, rate / of.value), what)

    def shares(what: str, rates: Mapping[str, float], of: Mapping[str, FigureConfig]) -> dict[str, FigureConfig]:
        return {one: fraction(rates[one], of[one], f"{what} in {one}, forward and backward, {each}") for one in rates}

    products = {"bf16": measured.bf16_product_tflops, "fp32": measured.fp32_product_tflops}
    attention = {"bf16": measured.bf16_attention_tflops, "fp32": measured.fp32_attention_tflops}
    elementwise = {"bf16": measured.bf16_elementwise_gb_per_s, "fp32": measured.fp32_elementwise_gb_per_s}
    peaks = {
        "bf16": peak("bf16_tflops", max(measured.bf16_tflops, products["bf16"]), f"product in bf16, {each}"),
        "fp32": peak("fp32_tflops", max(measured.fp32_tflops, products["fp32"]), f"product in fp32, {each}"),
    }
    memory = peak("memory_gb_per_s", max(measured.copy_gb_per_s, *elementwise.values()), f"copy, {each}")
    link = peak("node_gb_per_s", max(measured.message_gb_per_s, measured.sum_gb_per_s), f"{group}, or {sums}")
    product_shares = shares("products", products, peaks)
    attention_shares = shares("causal attention", attention, peaks)
    memory_shares = shares("norms and activation", elementwise, dict.fromkeys(elementwise, memory))
    collective = fraction(measured.message_gb_per_s, link, group)
    latency = figure(measured.latency_us, f"{group}, of four bytes each")
    if exchange_gb_per_s is not None:  # the plan takes the same fraction of it
        network = figure(exchange_gb_per_s / collective.value, "exchange between nodes, over collective_fraction")
    elif base is not None:
        network = base.network_gb_per_s
    else:
        network = replace(link, source=f"{ASSUMED}: one node was measured; between nodes as inside")
    return MachineConfig(
        description=base.description if base is not None else f"{node}, {measured.device_name}",
        device=measured.device,
        device_name=measured.device_name,
        gpus_per_node=figure(measured.ranks, "ranks that measured at once"),
        memory_gib=figure(measured.memory_gib, "an equal part of the node's" if on_cpu else "of a GPU"),
        bf16_tflops=peaks["bf16"],
        fp32_tflops=peaks["fp32"],
        memory_gb_per_s=memory,
        node_gb_per_s=link,
        network_gb_per_s=network,
        node_latency_us=latency,
        network_latency_us=base.network_latency_us if base else replace(latency, source=f"{ASSUMED}: as in a node"),
        product_fraction=product_shares["bf16"],
        fp32_product_fraction=product_shares["fp32"],
        attention_fraction=attention_shares["bf16"],
        fp32_attention_fraction=attention_shares["fp32"],
        flash3_fraction=base.flash3_fraction if base is not None else attention_shares["bf16"],
        memory_fraction=memory_shares["bf16"],
        fp32_memory_fraction=memory_shares["fp32"],
        collective_fraction=collective,
        sum_fraction=fraction(measured.sum_gb_per_s, link, sums),
        node_sum_latency_us=figure(measured.sum_latency_us, f"{sums}, of four bytes each"),
        host_ms_per_layer=figure(measured.host_ms_per_layer, f"step of a small model, {each}"),
        step_factor=base.step_factor if base is not None else None,
        watts=base.watts if base is not None else None,
    )


def write_machine(path: Path, machine: MachineConfig) -> None:
    """Write a machine as ``--gpu`` and a site's ``machine`` read it, whole or not at all."""
    head = "# Figures that a node was measured to have, and those of its data sheet. Read by: fanal plan CONFIG --gpu THIS_FILE\n"
    tree = {name: value for name, value in asdict(machine).items() if value is not None}
    write_whole(path, head + yaml.safe_dump(tree, sort_keys=False, width=130, allow_unicode=True))
