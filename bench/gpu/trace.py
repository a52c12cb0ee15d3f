"""A trace of one step of the model, for Perfetto, and a table of the kernels that take its time."""

import logging
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu.found import findings_here
from bench.gpu.model import lone_rank, shape_here, synchronize
from bench.gpu.setting import here
from bench.step.ours import Fanal
from bench.step.task import batches

NAME = "gpu-trace.json.gz"
WARM_UP = 3
MOST = 25


def main() -> int:
    logging.disable(logging.WARNING)
    setting, findings = here(), findings_here()
    shape = shape_here(setting)
    *warm, rows = batches(shape, WARM_UP + 1)
    with lone_rank(setting) as world:
        fanal = Fanal(shape, "bf16", world)
        for other in warm:
            fanal.step(other)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (setting.device == "cuda")
        with profile(activities=activities) as seen:
            synchronize(setting)
            began = time.perf_counter()
            fanal.step(rows)
            synchronize(setting)
            step_s = time.perf_counter() - began
    on_gpu = setting.device == "cuda"
    own = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    total_s: dict[str, float] = {}
    calls: dict[str, int] = {}
    for event in seen.events() or []:
        if event.device_type == own:
            took = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
            total_s[event.name] = total_s.get(event.name, 0.0) + took
            calls[event.name] = calls.get(event.name, 0) + 1
    busy_s = sum(total_s.values())
    findings.note(
        f"a step took {step_s * 1e3:.1f} ms under the profiler, {busy_s * 1e3:.1f} ms of them in {sum(calls.values())} calls"
    )
    for name in sorted(total_s, key=lambda name: -total_s[name])[:MOST]:
        findings.row(
            "what takes the time of a step",
            {"ms": f"{total_s[name] * 1e3:.2f}", "share": f"{total_s[name] / busy_s:.1%}", "calls": calls[name], "name": name[:110]},
        )  # fmt: skip
    # Last: it takes seconds, and the table is there without it.
    seen.export_chrome_trace(str(setting.folder / NAME))
    findings.note(
        f"the trace: {NAME} ({(setting.folder / NAME).stat().st_size / 2**20:.1f} MiB), for https://ui.perfetto.dev"
    )
    return findings.exit_code()


if __name__ == "__main__":
    sys.exit(main())
