"""Measure the machine for `fanal plan`, and leave its file beside the report: what every GPU reaches while all others work."""

import datetime
import sys

from bench.gpu.found import findings_here
from bench.gpu.setting import here
from fanal.node_name import node_name
from pretrain.plan.machine import figures, known_machines, load_machine
from pretrain.plan.measure import TINY, measure
from pretrain.plan.measured_machine import Measured, machine_of, write_machine

FILE = "machine.yaml"


def main() -> int:
    setting, findings = here(), findings_here()
    measured = measure(device=setting.device, precision="bf16", sizes=TINY if setting.tiny else None)
    name = machine_like(measured)
    today = datetime.datetime.now(datetime.UTC).date()
    machine = machine_of(measured, load_machine(name) if name else None, node=node_name(), date=today)
    target = setting.folder / FILE
    write_machine(target, machine)
    for figure_name, figure in figures(machine):
        findings.row("machine", {"figure": figure_name, "value": f"{figure.value:g}", "source": figure.source})
    findings.note(f"{target}: fanal plan CONFIG --gpu {target} plans with it" + (f"; peaks of {name}" if name else ""))
    return findings.exit_code()


def machine_like(measured: Measured) -> str | None:
    """Return the known machine of this device, of several the one whose memory is nearest; None if there is none."""
    alike = {name: load_machine(name) for name in known_machines()}
    alike = {name: one for name, one in alike.items() if measured.device_name.startswith(one.device_name)}
    return min(alike, key=lambda name: abs(alike[name].memory_gib.value - measured.memory_gib), default=None)


if __name__ == "__main__":
    sys.exit(main())
