"""Energy and CO2 of a run, within three boundaries that are said with each figure: its GPUs, its nodes, its site.

A figure that is not known stays unknown, and so does what would follow from it: nothing is guessed.
"""

from dataclasses import dataclass

from pretrain.plan.machine import FigureConfig

GPUS, NODES, SITE = "GPUs", "nodes", "site"


@dataclass(frozen=True, kw_only=True)
class EnergyFacts:
    """What a site says of its power; None where it does not."""

    node_watts: FigureConfig | None = None
    """Power of a node under load beside its GPUs: processors, memory, network, fans."""
    pue: FigureConfig | None = None
    """Power usage effectiveness: energy of the whole site for one of its computers."""
    co2_g_per_kwh: FigureConfig | None = None
    """Grams of CO2 equivalent of a kilowatt hour of the site's electricity."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Energy and CO2 within one boundary."""

    name: str
    counts: str
    """What is counted, in words, with the sources of the figures."""
    kwh: float | None
    co2_kg: float | None
    missing: str
    """Why there is no figure; empty where there are all."""


def boundaries(
    *, gpu_hours: float, node_hours: float | None, watts: FigureConfig | None, facts: EnergyFacts | None
) -> tuple[Boundary, ...]:
    """Return the energy of the GPUs, of the nodes, and of the site for them.

    Args: node_hours, and facts: None without a site; watts: power of one GPU, None where it is not known.
    """
    facts_or_none = facts or EnergyFacts()
    no = "no --site" if facts is None else "not known of this site: "
    if watts is None:
        no_watts = "not known of this machine: watts"
        return tuple(
            Boundary(name=name, counts="", kwh=None, co2_kg=None, missing=no_watts) for name in (GPUS, NODES, SITE)
        )
    gpus = gpu_hours * watts.value / 1e3
    node, pue, factor = facts_or_none.node_watts, facts_or_none.pue, facts_or_none.co2_g_per_kwh
    nodes = None if node is None or node_hours is None else gpus + node_hours * node.value / 1e3
    known = gpus if nodes is None else nodes
    site = None if pue is None else known * pue.value
    rest = "GPUs" if nodes is None else "nodes"
    why_no_co2 = "" if factor else (no if facts is None else f"{no}co2_g_per_kwh")

    def boundary(name: str, counts: str, kwh: float | None, why: str) -> Boundary:
        co2 = None if kwh is None or factor is None else kwh * factor.value / 1e3
        return Boundary(name=name, counts=counts, kwh=kwh, co2_kg=co2, missing=why or why_no_co2)

    return (
        boundary(GPUS, f"{watts.value:g} W each ({watts.source}), all the time of the jobs", gpus, ""),
        boundary(
            NODES,
            f"GPUs and {node.value:g} W a node ({node.source})"
            if nodes is not None and node
            else "GPUs and the rest of each node",
            nodes,
            "" if nodes is not None else (no if facts is None else f"{no}node_watts"),
        ),
        boundary(
            SITE,
            f"{rest} x PUE {pue.value:g} ({pue.source})" if pue else "all of these, with cooling and losses",
            site,
            "" if pue else (no if facts is None else f"{no}pue"),
        ),
    )
