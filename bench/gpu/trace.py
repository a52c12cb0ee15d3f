"""A trace of one step of the model, for Perfetto, and a table of the kernels that take its time."""

import logging
import sys
import time

from torch.profiler import profile

from bench.gpu.found import findings_here
from bench.gpu.model import lone_rank, shape_here, synchronize
from bench.gpu.profiled import activities, totals
from bench.gpu.setting import here
from bench.step.ours import Fanal
from bench.step.task import batches

NAME = "gpu-trace.json.gz"
WARM_UP = 3
MOST = 25


def main() -> int:
    logging.disable(logging.WARNING)
    setting, findings = here(), findings_here()
    shape, on_gpu = shape_here(setting), setting.device == "cuda"
    *warm, rows = batches(shape, WARM_UP + 1)
    with lone_rank(setting) as world:
        fanal = Fanal(shape, "bf16", world)
        for other in warm:
            fanal.step(other)
        with profile(activities=activities(on_gpu=on_gpu)) as seen:
            synchronize(setting)
            began = time.perf_counter()
            fanal.step(rows)
            synchronize(setting)
            step_s = time.perf_counter() - began
    by_name = totals(seen, on_gpu=on_gpu)
    busy_s = sum(total.seconds for total in by_name.values())
    calls = sum(total.calls for total in by_name.values())
    findings.note(f"a step took {step_s * 1e3:.1f} ms under the profiler, {busy_s * 1e3:.1f} ms in {calls:,} calls")
    for name, total in list(by_name.items())[:MOST]:
        cells = {"ms": f"{total.seconds * 1e3:.2f}", "share": f"{total.seconds / busy_s:.1%}", "calls": total.calls}
        findings.row("what takes the time of a step", {**cells, "name": name[:110]})
    # Last: it takes seconds, and the table is there without it.
    seen.export_chrome_trace(str(setting.folder / NAME))
    findings.note(
        f"the trace: {NAME} ({(setting.folder / NAME).stat().st_size / 2**20:.1f} MiB), for https://ui.perfetto.dev"
    )
    return findings.exit_code()


if __name__ == "__main__":
    sys.exit(main())
