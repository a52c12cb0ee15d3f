"""A ladder and its fit as a person reads them, in 100 columns, and as a program does."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pretrain.config.derive import kv_channels
from pretrain.config.steps import last_batch_size, last_step
from pretrain.plan.ladder import Rung, count
from pretrain.plan.ladder_fit import LadderFit
from pretrain.plan.law import LEVEL, Law, Size
from pretrain.plan.search import layout_name

WIDTH = 100
"""Columns."""
RULE = (
    "Sizes: width and depth shrink together (Kaplan et al., arXiv:2001.08361). Learning rate by compute^-0.125 and batch by "
    "compute^0.3271, from CONFIG's own (DeepSeek LLM, arXiv:2401.02954). Parameters are those of the layers' matrices, "
    "operations have attention in full. Nothing was tuned for these sizes."
)
FORMS = {"parameters and tokens": "L = E + A / N^alpha + B / D^beta", "compute": "L = E + A / C^alpha"}


def ladder_lines(config: str, own: Size, rungs: Sequence[Rung], calibration: str = "") -> list[str]:
    """Return the lines of a ladder. Args: own: of the large run; calibration: what is said of the machine's."""
    said = [
        f"a ladder of {_runs(len(rungs))} below {config}: {count(own.parameters)} parameters in layers, {count(own.tokens)} tokens",
        "",
        f"{'':<18} {'layers':>6} {'width':>6} {'heads':>9} {'ratio':>7} {'FLOPs':>8} {'steps':>8} {'batch':>6} {'lr':>9} "
        f"{'GPU h':>9}",
    ]
    for one in rungs:
        model, train, hours = one.run.model, one.run.train, one.gpu_hours
        said.append(
            f"{one.name:<18} {model.num_layers:>6} {model.hidden_size:>6} "
            f"{f'{model.num_attention_heads} x {kv_channels(model)}':>9} {one.size.tokens / one.size.parameters:>7.4g} "
            f"{one.size.flops:>8.3g} {last_step(one.run.optim, train):>8,} {last_batch_size(train):>6,} {one.run.optim.lr:>9.3g} "
            f"{'-' if hours is None else f'{hours:,.3g}':>9}"
        )
    total = sum(one.size.flops for one in rungs)
    hours = [one.gpu_hours for one in rungs if one.gpu_hours is not None]
    said += [
        "",
        f"in all {total:.3g} FLOPs, {total / own.flops:.2%} of CONFIG's{f', {sum(hours):,.4g} GPU hours' if hours else ''}",
    ]
    said += [f"{one.name}: {layout_name(one.run, one.estimate.num_gpus)}" for one in rungs if one.estimate is not None]
    if not hours:
        said += _wrapped(
            "GPU hours: --gpus 8 --gpu h100, or --site and --nodes, say them and choose a layout for each run."
        )
    return [*said, *(_wrapped(calibration) if calibration else []), *_wrapped(RULE)]


def ladder_json(config: str, own: Size, rungs: Sequence[Rung], calibration: str = "") -> str:
    """Return a ladder as one JSON object. Args: as of ``ladder_lines``."""
    trees = [
        {
            "name": one.name,
            **asdict(one.size),
            "steps": last_step(one.run.optim, one.run.train),
            "learning_rate": one.run.optim.lr,
            "global_batch_size": one.run.train.global_batch_size,
            "run_dir": one.run.run_dir,
            "gpus": None if one.estimate is None else one.estimate.num_gpus,
            "gpu_hours": one.gpu_hours,
        }
        for one in rungs
    ]
    tree = {"config": config, "own": asdict(own), "rungs": trees, "calibration": calibration}
    return json.dumps(tree, indent=1)


def fit_lines(found: LadderFit) -> list[str]:
    """Return the lines of a fit."""
    one, law = found.prediction, found.prediction.law
    said = [
        f"{found.config}: loss {one.loss:.4f}, {LEVEL:.0%} interval {one.low:.4f} to {one.high:.4f} nats a token",
        f"predicted from {len(found.used)} runs, {found.times_further:,.4g} times the operations of the largest",
        f"the loss: {found.finished.what}",
        f"the law: {FORMS[law.form]}; {_constants(law)}",
        "",
        f"{'':<24} {'parameters':>10} {'tokens':>8} {'FLOPs':>9} {'loss':>8} {'law':>8} {'off':>7}",
    ]
    for rung in found.used:
        said_of_it = law.loss(rung.size)
        said.append(
            f"{rung.name:<24} {count(rung.size.parameters):>10} {count(rung.size.tokens):>8} {rung.size.flops:>9.3g} "
            f"{rung.loss:>8.4f} {said_of_it:>8.4f} {said_of_it / rung.loss - 1:>+7.2%}"
        )
    said += ["", *_wrapped(_checked(found))]
    others = len(found.finished.rungs) - len(found.used)
    if others:
        said += _wrapped(
            f"{others} finished {'run has' if others == 1 else 'runs have'} other tokens for each parameter than CONFIG, and too "
            "few of them to fit both."
        )
    if found.finished.missing:
        said += _wrapped(f"not finished: {', '.join(found.finished.missing)}")
    return [
        *said,
        *_wrapped(
            f"The residuals' spread is {one.spread:.2%} of the loss. The interval is of one run, and holds if the law holds as far "
            "as CONFIG, with the rungs' learning rates as good for them as CONFIG's is for it."
        ),
    ]


def fit_json(found: LadderFit) -> str:
    """Return a fit as one JSON object."""
    one, largest = found.prediction, _largest(found)
    tree: dict[str, Any] = {
        "config": found.config,
        "target": asdict(found.target),
        "what": found.finished.what,
        "loss": one.loss,
        "low": one.low,
        "high": one.high,
        "level": LEVEL,
        "spread": one.spread,
        "law": asdict(one.law),
        "times_further": found.times_further,
        "runs": [
            {"name": rung.name, **asdict(rung.size), "loss": rung.loss, "law": one.law.loss(rung.size)}
            for rung in found.used
        ],
        "largest_left_out": None
        if found.left_out is None
        else {"name": largest.name, "loss": largest.loss, "predicted": found.left_out},
        "not_finished": list(found.finished.missing),
    }
    return json.dumps(tree, indent=1)


def _runs(number: int) -> str:
    return f"{number} run{'s' * (number != 1)}"


def _largest(found: LadderFit) -> Any:
    return max(found.used, key=lambda one: one.size.flops)


def _checked(found: LadderFit) -> str:
    largest = _largest(found)
    if found.left_out is None:
        return f"Without {largest.name} there are too few runs for a law, so that nothing checks it."
    return (
        f"Left out, {largest.name} is predicted from the others: {found.left_out:.4f} for {largest.loss:.4f}, "
        f"{found.left_out / largest.loss - 1:+.2%}."
    )


def _constants(law: Law) -> str:
    names = zip(("A", "B"), ("alpha", "beta"), law.factors, law.exponents, strict=False)
    return ", ".join(
        [f"E {law.least_loss:.4g}", *(f"{a} {factor:.4g}, {b} {power:.4g}" for a, b, factor, power in names)]
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
