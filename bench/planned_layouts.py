"""Shipped configs whose layouts ``fanal plan`` chose have its reasons in their comments: ``python -m bench.planned_layouts``.

It writes the planner's lines between the marks of each file. It changes no layout: tests/unit/plan/test_planned_layouts.py says
when the planner finds a faster one.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from launch.planning.place import Place
from launch.planning.plan import make_plan
from pretrain.plan.estimate import GIB
from pretrain.plan.reasons import reason_lines
from pretrain.plan.search import layout_name
from pretrain.plan.table import Plan

CONFIGS = Path(__file__).parents[1] / "configs"
BEGIN, END = "# What the planner prints", "# (end of what the planner prints)"
WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A config whose layout is the planner's."""

    config: str
    """Path below configs."""
    gpus: int | None = None
    gpu: str | None = None
    site: str | None = None
    nodes: int | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return CONFIGS / self.config

    @property
    def command(self) -> str:
        """The command that plans it."""
        where = (
            f"--gpus {self.gpus} --gpu {self.gpu}" if self.site is None else f"--site {self.site} --nodes {self.nodes}"
        )
        return f"fanal plan configs/{self.config} {where}"


PLANNED = (
    Planned(config="lucie-7b/pretrain-fast.yaml", site="jean-zay-h100", nodes=128),
    Planned(config="1b.yaml", gpus=8, gpu="h100"),
)


def plan_of(planned: Planned) -> Plan:
    """Return the plan that the command of a config makes."""
    place = Place(gpus=planned.gpus, gpu=planned.gpu, site_name=planned.site, nodes=planned.nodes)
    return make_plan(str(planned.path), (), place, top=1, rehearsals=0)


def comment_of(planned: Planned, made: Plan) -> str:
    """Return the lines from one mark to the other."""
    best = made.best[0]
    parts = [f"{name} {seconds:.3f}" for name, seconds in vars(best.times).items() if seconds >= 0.0005]
    said = [
        f"layout 1: {layout_name(best.run, best.num_gpus)}, {best.peak_bytes / GIB:.1f} GiB, {best.step_s:.3f} s a step "
        f"({', '.join(parts)}), {best.tokens_per_second_per_gpu:,.0f} tokens/s/GPU, MFU {best.mfu_full:.1%}",
        *reason_lines(made.found),
    ]
    wrapped = [
        row
        for line in said
        for row in textwrap.wrap(line, WIDTH, initial_indent="#   ", subsequent_indent="#     ", break_on_hyphens=False)
    ]
    return "\n".join([f"{BEGIN} ({planned.command}):", *wrapped, END])


def stated(text: str) -> str:
    """Return the lines of a file from one mark to the other."""
    return text[text.index(BEGIN) : text.index(END) + len(END)]


if __name__ == "__main__":
    for one in PLANNED:
        before = one.path.read_text()
        one.path.write_text(before.replace(stated(before), comment_of(one, plan_of(one))))
