"""Goodput and energy, as the ledger accounts for them."""

from collections.abc import Iterator

from pretrain.report.chart import table
from pretrain.report.markup import Markup, element, name
from pretrain.report.quantities import figure, percent
from pretrain.report.stacked import Area, bar_figure
from pretrain.report.view import RunView

PARTS = (
    ("useful", "training that counts", 2), ("lost", "training that was lost", 4), ("evaluation", "validation", 0),
    ("save", "pauses for checkpoints", 1), ("startup", "start-up", 3), ("other", "other", 7),
)  # fmt: skip


def cost_parts(view: RunView) -> Iterator[Markup]:
    """Yield hours, goodput and energy; nothing where there is no ledger."""
    if view.ledger is None:
        return
    hours, energy = view.ledger.hours, view.ledger.energy
    known = [(words, getattr(hours, key), look) for key, words, look in PARTS]
    total = sum(value or 0.0 for _, value, _ in known)
    if total:
        areas = [Area(label=words, shares=[value / total], look=look) for words, value, look in known if value]
        yield bar_figure("Hours of all ranks", areas)
    rows = [[words, figure(value)] for words, value, _ in known]
    rows += [["in all", figure(hours.total)], ["goodput (useful of all)", percent(hours.goodput)]]
    yield table(["hours of ranks", "h"], rows)
    if energy.kwh is None:
        yield element("p", "Energy: not measured.")
    else:
        yield element(
            "p",
            f"Energy: {figure(energy.kwh)} kWh, by ",
            name("; ".join(energy.methods)),
            f"; {energy.without} starts were not measured" if energy.without else None,
            ".",
        )
    if energy.co2_g is not None:
        factor = f"{energy.co2_g_per_kwh:g} g a kilowatt hour, as given"
        yield element("p", f"CO2: {figure(energy.co2_g / 1000)} kg, at {factor}.")
    if untold := view.ledger.not_known():
        yield element("ul", [element("li", name(line)) for line in untold], class_="plain note")
