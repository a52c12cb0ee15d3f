"""``RUN_DIR/energy/start-00001-rank-00000.json``: what the energy counters that one rank reads rose by during one start of a run.

Each rank that may read some, of its GPU or as the first one of its node of that, writes a file again and again, whole each time:
after a kill the last one says what was measured until then.
"""

from dataclasses import dataclass
from pathlib import Path

from fanal.errors import DamageError, user_path
from fanal.files import write_bytes_durably
from fanal.gpu_energy import PREFIX
from fanal.records import read_sealed, record_bytes, record_in, sealed
from fanal.run_folder import ENERGY_DIR, energy_name

RAPL = "RAPL counters (Linux powercap: sockets and memory, no GPUs, no other parts of the nodes)"
NVML = "NVML counters (GPUs alone)"
OWN_HASH = "energy_sha256"


@dataclass(frozen=True, kw_only=True)
class EnergyFile:
    """Content of a rank's file."""

    start: int
    rank: int
    """Rank that read the counters."""
    host: str
    measured_s: float
    """Seconds from the first reading, when the start was ready to train, to the last."""
    joules: dict[str, float]
    """By counter, such as ``intel-rapl:0 package-0`` or ``nvml:0000:1b:00.0``."""
    energy_sha256: str | None = None
    """SHA-256 of everything else in this file (``own_hash``)."""


def write_energy_file(run_dir: str | Path, found: EnergyFile) -> None:
    """Write a rank's file, durably. Raises: PassingError or UserError if the disk does not take it."""
    folder = Path(run_dir) / ENERGY_DIR
    with user_path(folder):
        folder.mkdir(exist_ok=True)
    write_bytes_durably(folder / energy_name(found.start, found.rank), record_bytes(sealed(found, OWN_HASH)))


def read_energy(run_dir: str | Path, start: int) -> dict[str, float]:
    """Return the joules that the ranks of a start measured together, by method, RAPL or NVML. Of a GPU that several ranks share the
    largest figure counts. Raises: DamageError."""
    found: dict[tuple[str, str, str], float] = {}
    for path in sorted((Path(run_dir) / ENERGY_DIR).glob(energy_name(start))):
        of_rank = _read(path)
        for counter, joules in of_rank.joules.items():
            of_gpu = counter.startswith(PREFIX)
            key = (NVML if of_gpu else RAPL, of_rank.host if of_gpu else path.name, counter)
            found[key] = max(joules, found.get(key, 0.0))
    by_method: dict[str, float] = {}
    for (method, _, _), joules in found.items():
        by_method[method] = by_method.get(method, 0.0) + joules
    return by_method


def _read(path: Path) -> EnergyFile:
    remedy = "copy it again from an intact copy of the run folder, or move it away"
    altered = f"must have the content whose sha256 is its {OWN_HASH}, and it has not"
    content = read_sealed(path, OWN_HASH, altered=altered, remedy=remedy)
    return record_in(EnergyFile, content, path, remedy=remedy, error=DamageError)
