"""Energy and CO2 by boundary: what is not known stays so."""

import pytest

from pretrain.plan.energy import EnergyFacts, boundaries
from pretrain.plan.machine import FigureConfig

WATTS = FigureConfig(value=700, source="a data sheet")
NODE, PUE, CO2 = (FigureConfig(value=value, source="here") for value in (800, 1.2, 50))


def figures(facts: EnergyFacts | None) -> list[tuple[float | None, float | None]]:
    """1,000 GPU hours in nodes of four."""
    node_hours = None if facts is None else 250
    return [
        (one.kwh, one.co2_kg) for one in boundaries(gpu_hours=1000, node_hours=node_hours, watts=WATTS, facts=facts)
    ]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (EnergyFacts(node_watts=NODE, pue=PUE, co2_g_per_kwh=CO2), [(700, 35), (900, 45), (1080, 54)]),
        (EnergyFacts(pue=PUE, co2_g_per_kwh=CO2), [(700, 35), (None, None), (840, 42)]),
        (EnergyFacts(node_watts=NODE, co2_g_per_kwh=CO2), [(700, 35), (900, 45), (None, None)]),
        (EnergyFacts(node_watts=NODE, pue=PUE), [(700, None), (900, None), (1080, None)]),
        (EnergyFacts(), [(700, None), (None, None), (None, None)]),
        (None, [(700, None), (None, None), (None, None)]),
    ],
)
def test_by_hand(facts: EnergyFacts | None, expected: list[tuple[float | None, float | None]]) -> None:
    assert [tuple(pytest.approx(value) if value is not None else None for value in one) for one in expected] == figures(
        facts
    )


def test_what_is_counted_and_what_is_missing_is_said() -> None:
    gpus, nodes, site = boundaries(gpu_hours=1, node_hours=1, watts=WATTS, facts=EnergyFacts(pue=PUE))
    assert "700 W each (a data sheet)" in gpus.counts and gpus.missing == "not known of this site: co2_g_per_kwh"
    assert nodes.missing == "not known of this site: node_watts"
    assert site.counts == "GPUs x PUE 1.2 (here)"  # not the nodes, whose watts nobody knows
    whole = boundaries(gpu_hours=1, node_hours=1, watts=WATTS, facts=EnergyFacts(pue=PUE, node_watts=NODE))
    assert whole[2].counts == "nodes x PUE 1.2 (here)"
    assert {one.missing for one in boundaries(gpu_hours=1, node_hours=None, watts=WATTS, facts=None)} == {"no --site"}
