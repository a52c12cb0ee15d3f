"""Code that runs in a process of its own: one that has rehearsed is good for nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SETTINGS = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"}


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, from the root of the source."""
    environment = {**os.environ, **SETTINGS}
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)


def answer(code: str) -> Any:
    """Return what the code prints, which is JSON."""
    done = alone(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
