"""The fit of ``fanal plan --fit`` on losses that others published, the runs of Hoffmann et al. and OLMo's ladder, and how often its
interval holds the loss of a law that is known: `make bench-ladder`. Of what is predicted nothing is left out.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.compare import append_result, table
from pretrain.plan.law import FEWEST_RUNS, LEVEL, Form, Law, Size, fit, predict

RESULTS = Path(__file__).parent / "results" / "ladder.md"
FOLDER = Path(__file__).parent / "ladders"
HOFFMANN = Law(form="parameters and tokens", least_loss=1.8172, factors=(482.01, 2085.43), exponents=(0.3478, 0.3658))
"""As Besiroglu et al. fit it to their 240 points (arXiv:2404.10102, table 1)."""
OUTLIERS = 5
"""Points with the fewest tokens for each parameter, which they leave out."""
SIZES = ("190M", "370M", "760M", "1B")
"""Of the runs that OLMo's ladder is fitted to."""
COMPUTE = Law(form="compute", least_loss=1.8, factors=(2200.0,), exponents=(0.16,))
"""A law of compute with the losses of HOFFMANN, more or less."""
NOISE = 0.003
"""Spread of losses around a law, as a part of them."""


def chinchilla() -> tuple[list[Size], list[float]]:
    """Return the runs of Hoffmann et al. without the outliers, and their losses."""
    found = [
        (
            Size(parameters=(n := float(row["parameters"])), flops=(c := float(row["flops"])), tokens=c / 6 / n),
            float(row["loss"]),
        )
        for row in _rows("chinchilla.csv")
    ]
    found.sort(key=lambda one: one[0].tokens / one[0].parameters)
    return [size for size, _ in found[OUTLIERS:]], [loss for _, loss in found[OUTLIERS:]]


def olmo() -> dict[str, tuple[Size, float]]:
    """Return OLMo's runs with their losses, by name."""
    return {
        row["run"]: (
            Size(parameters=float(row["parameters"]), tokens=float(row["tokens"]), flops=float(row["flops"])),
            float(row["loss"]),
        )
        for row in _rows("olmo.csv")
    }


def published_rows() -> Iterator[Sequence[str]]:
    """Yield a row for each run that was predicted from smaller ones."""
    points = list(zip(*chinchilla(), strict=True))
    small = [point for point in points if point[0].flops < 1e20]
    for large in points:
        if large[0].flops > 3e21:
            name = f"Hoffmann et al., from below 1e20 FLOPs to above 3e21: {large[0].parameters / 1e9:.2f}B"
            yield _row(name, "parameters and tokens", small, *large)
    runs = olmo()
    ladder = [run for name, run in runs.items() if name.startswith(SIZES)]
    for name, run in runs.items():
        if not name.startswith(SIZES):
            yield _row(f"OLMo's ladder, 190M to 1B: {name}", "parameters and tokens", ladder, *run)
    for ratio in (1, 2, 5, 10):
        alike = [runs[f"{size}-{ratio}xC"] for size in SIZES]
        yield _row(f"the same at {ratio}xC: 3B-{ratio}xC", "compute", alike, *runs[f"3B-{ratio}xC"])


def simulated_rows(trials: int = 50) -> Iterator[Sequence[str]]:
    """Yield a row for each law and number of runs, and how much further the predicted run is."""
    for law, sizes, further in (
        (HOFFMANN, grid(3, 3), 16), (HOFFMANN, grid(4, 4), 16), (COMPUTE, grid(4, 1), 16), (COMPUTE, grid(5, 1), 256),
        (COMPUTE, grid(8, 1), 256),
    ):  # fmt: skip
        inside, width = coverage(law, sizes, further, noise=NOISE, trials=trials)
        yield [law.form, f"{len(sizes)}", f"{NOISE:.1%}", f"{further} x", f"{trials}", f"{inside:.0%}", f"{width:.1%}"]


def grid(num_sizes: int, num_ratios: int) -> list[Size]:
    """Return runs of models that double from 20 M parameters on, each at 20, 40 ... tokens for each."""
    made = []
    for size in range(num_sizes):
        for ratio in range(num_ratios):
            parameters = 2e7 * 2**size
            tokens = parameters * 20 * 2**ratio
            made.append(Size(parameters=parameters, tokens=tokens, flops=6 * parameters * tokens))
    return made


def beyond(sizes: Sequence[Size], further: float) -> Size:
    """Return a run with so many times the operations of the largest, at the tokens for each parameter of the first."""
    largest, ratio = max(one.flops for one in sizes) * further, sizes[0].tokens / sizes[0].parameters
    parameters = (largest / 6 / ratio) ** 0.5
    return Size(parameters=parameters, tokens=parameters * ratio, flops=largest)


def coverage(law: Law, sizes: Sequence[Size], further: float, *, noise: float, trials: int) -> tuple[float, float]:
    """Return the part of trials whose interval holds the loss of a run, and the median width as a part of the loss."""
    random, target = np.random.default_rng(1), beyond(sizes, further)
    inside, widths = 0, []
    for trial in range(trials):
        losses = [law.loss(size) * float(np.exp(noise * random.standard_normal())) for size in sizes]
        was = law.loss(target) * float(np.exp(noise * random.standard_normal()))
        found = predict(law.form, sizes, losses, target, seed=trial)
        inside += found.low <= was <= found.high
        widths.append((found.high - found.low) / was)
    return inside / trials, float(np.median(widths))


def _row(name: str, form: Form, runs: Sequence[tuple[Size, float]], target: Size, was: float) -> list[str]:
    assert len(runs) >= FEWEST_RUNS[form]
    found = predict(form, [size for size, _ in runs], [loss for _, loss in runs], target)
    return [
        name, f"{len(runs)}", form, f"{found.loss:.4f}", f"{found.low:.4f} to {found.high:.4f}", f"{was:.4f}",
        f"{found.loss / was - 1:+.2%}", "yes" if found.low <= was <= found.high else "no",
    ]  # fmt: skip


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


def main() -> None:
    """Append the tables to bench/results/ladder.md."""
    sizes, losses = chinchilla()
    law = fit(HOFFMANN.form, sizes, losses)
    text = (
        f"The {len(sizes)} runs of Hoffmann et al.: {_words(law)}; published by Besiroglu et al.: {_words(HOFFMANN)}.\n\n"
        + table(
            ["from: to", "runs", "law of", "predicted", f"{LEVEL:.0%} interval", "was", "off", "inside"],
            list(published_rows()),
        )
        + "\n\nLosses around a law that is known:\n\n"
        + table(["law of", "runs", "noise", "further", "trials", "inside", "median width"], list(simulated_rows()))
    )
    append_result(RESULTS, "Laws of published ladders, and of known ones", text)


def _words(law: Law) -> str:
    a, b = zip(law.factors, law.exponents, strict=True)
    return f"E {law.least_loss:.4f}, A {a[0]:.1f}, alpha {a[1]:.4f}, B {b[0]:.1f}, beta {b[1]:.4f}"


if __name__ == "__main__":
    main()
