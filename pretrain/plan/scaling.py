"""Strong and weak scaling of a run on paper: the fastest layout of each number of GPUs, up to 4,096."""

from dataclasses import dataclass, replace

from fanal.errors import UserError
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_batch_size
from pretrain.plan.estimate import StepEstimate, on_device_of
from pretrain.plan.machine import MachineConfig
from pretrain.plan.search import layout_name, search

MOST_GPUS = 4096
STRONG, WEAK = "strong", "weak"
KINDS = {STRONG: "the batch stays", WEAK: "the batch grows with the GPUs"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """The fastest layout of one number of GPUs."""

    kind: str
    """STRONG or WEAK."""
    num_gpus: int
    batch: int
    """Samples of a step."""
    estimate: StepEstimate | None
    """None where no layout passes the rules and fits."""


def scale_up(run: RunConfig, machine: MachineConfig, num_gpus: int) -> list[Point]:
    """Return the points of strong and then of weak scaling: so many GPUs, twice as many, and so on.

    The batch is the full one, without its ramp or stages. Each point is a search of its own. Raises: UserError if nothing fits
    the first number of GPUs, or it is out of range.
    """
    if not 1 <= num_gpus <= MOST_GPUS // 2:
        raise UserError(
            f"--scaling starts from 1 to {MOST_GPUS // 2:,} GPUs, and these are {num_gpus:,}; as many as {MOST_GPUS // 2:,} work"
        )
    counts = [num_gpus]
    while counts[-1] * 2 <= MOST_GPUS:
        counts.append(counts[-1] * 2)
    points = [
        _point(run, machine, kind, count, factor=count // num_gpus if kind == WEAK else 1)
        for kind in (STRONG, WEAK)
        for count in counts
    ]
    if points[0].estimate is None:
        search(_with_batch(run, factor=1), machine, num_gpus)  # says what is nearest
    return points


def words(points: list[Point]) -> str:
    """Return the tables that a person reads."""
    lines = []
    for kind, what in KINDS.items():
        mine = [point for point in points if point.kind == kind]
        lines += [
            f"{kind} scaling: {what}",
            f"{'GPUs':>6} {'batch':>8} {'tokens/s/GPU':>13} {'of first':>9} {'MFU full':>9}  layout",
        ]
        lines += [_line(point, mine[0]) for point in mine] + [""]
    return "\n".join(lines).rstrip()


def efficiency(point: Point, first: Point) -> float | None:
    """Return the speed of a GPU beside that of the first point; None where one of them has no layout."""
    if point.estimate is None or first.estimate is None:
        return None
    return point.estimate.tokens_per_second_per_gpu / first.estimate.tokens_per_second_per_gpu


def _line(point: Point, first: Point) -> str:
    one, part = point.estimate, efficiency(point, first)
    start = f"{point.num_gpus:>6,} {point.batch:>8,}"
    if one is None or part is None:
        return f"{start} {'no layout passes the rules and fits':>33}"
    name = layout_name(one.run, point.num_gpus)
    return f"{start} {one.tokens_per_second_per_gpu:>13,.0f} {part:>9.1%} {one.mfu_full:>9.1%}  {name}"


def _point(run: RunConfig, machine: MachineConfig, kind: str, num_gpus: int, *, factor: int) -> Point:
    larger = on_device_of(_with_batch(run, factor=factor), machine)
    try:
        best = search(larger, machine, num_gpus).fitting[0]
    except UserError:
        best = None
    return Point(kind=kind, num_gpus=num_gpus, batch=larger.train.global_batch_size, estimate=best)


def _with_batch(run: RunConfig, *, factor: int) -> RunConfig:
    batch = last_batch_size(run.train) * factor
    train = replace(run.train, global_batch_size=batch, batch_ramp=None, batch_stages=[])
    return replace(run, train=train)
