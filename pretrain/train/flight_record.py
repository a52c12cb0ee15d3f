"""What a rank's collectives came to, from torch's flight recorder, as JSON: evidence of a hang that no stack has.

With NCCL every host runs on until it needs a result, so the stacks of all ranks stop at the same place whoever is late; the
recorder knows which collective each rank enqueued last and which it completed. It is on in torch unless TORCH_FR_BUFFER_SIZE is 0.
``fanal launch status`` reads the files of all ranks (launch/status/collectives.py).
"""

import sys
from collections.abc import Callable
from pathlib import Path

from fanal.new_files import write_new

DUMPS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""torch's functions: of NCCL, which CUDA builds alone have, and of every other backend."""


def flight_record() -> bytes | None:
    """Return the record of this process; None where torch has none. Never pickled: the file may be read by others.

    With NCCL it asks the driver which kernels have ended, and may not come back where the driver hangs.
    """
    distributed = sys.modules.get("torch._C._distributed_c10d")  # not imported here: nothing of it ran, then
    found = None
    for name in DUMPS:
        dump: Callable[[], bytes] | None = getattr(distributed, name, None)
        if dump is not None:
            found = dump()
            if b'"entries"' in found:
                break
    return found


def write_flight_record(path: Path) -> None:
    """Write this rank's record, in place of that of an earlier hang. Raises: OSError."""
    content = flight_record()
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(path, content)
