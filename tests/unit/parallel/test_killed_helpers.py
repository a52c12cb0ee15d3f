"""Processes that a run asks or is forked from: one that is killed or does not answer is said in a line, and not waited for."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fanal.errors import PassingError
from pretrain.parallel import environment

ROOT = Path(__file__).parents[3]


def test_the_process_that_ranks_are_forked_from_may_be_killed_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    script = f"""
        import sys
        from pathlib import Path
        from fanal.errors import run_guarded
        from pretrain.parallel.local import run_local_ranks
        ranks = dict(num_ranks=2, device_type="cpu", log_dir=Path({str(tmp_path)!r}), preload=["deadly"])
        sys.exit(run_guarded(lambda: run_local_ranks(print, **ranks)[0]))
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    names = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(words, cwd=ROOT, env=names, capture_output=True, text=True, timeout=120)
    assert done.returncode == 70, done.stderr
    killed = (
        "error: the process that ranks are forked from was killed before rank 0 was there, often because memory ran out"
    )
    assert done.stderr.startswith(killed) and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("program", "reason"),
    [("exec sleep 60", "timed out after 0.5 seconds"), ("exit 1", "returned non-zero exit status 1"), ("true", "index out of range"), (None, "No such file")],
    ids=["silent", "failing", "empty", "missing"],
)  # fmt: skip
def test_scontrol_that_gives_no_host_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, reason: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1-2]")
    if program is not None:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if program else str(tmp_path))
    monkeypatch.setattr(environment, "SCONTROL_LIMIT_S", 0.5)
    with pytest.raises(PassingError, match=r"^`scontrol show hostnames n\[1-2\]` must name the first host .*" + reason):
        environment.name_first_host()
    assert "MASTER_ADDR" not in os.environ
