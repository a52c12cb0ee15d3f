"""What the tests of encoding share: one that is rendered, and run with a sbatch that only notes its arguments."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from launch.chain.request import Places
from launch.encoding.encode import EncodeRequest, plan_encode, render_encode
from launch.sites.schema import SiteConfig
from launch.sites.site import load_site

CODE = Path(__file__).parents[3]
FAKE_SBATCH = (
    '#!/bin/bash\necho "$@" >>"$CALLS_OF_SBATCH"\n[ -z "${REFUSING_SBATCH:-}" ] || { echo refused >&2; exit 1; }\n'
    + ('echo "$((100 + $(wc -l <"$CALLS_OF_SBATCH")))"\n')
)


def site_of(site_name: str) -> SiteConfig:
    """A site whose nodes share the folder of temporary files, where these tests are."""
    site = load_site(site_name)
    return replace(site, file_systems=[one for one in site.file_systems if one.shared])


def account_of(site_name: str) -> str | None:
    site = site_of(site_name)
    if site.encode and site.encode.account_suffix:
        return f"xyz@{site.encode.account_suffix}"
    return "xyz" if site.needs_account else None


class Encoding:
    """One encoding of the small corpus, rendered, and run without Slurm."""

    def __init__(self, tmp_path: Path, data_folder: Path) -> None:
        self.folder, self.data = tmp_path, data_folder
        self.places = Places(workdir=tmp_path, code_dir=CODE, python=Path(sys.executable))
        self.calls = tmp_path / "calls"
        (tmp_path / "bin").mkdir()
        self.fake("sbatch", FAKE_SBATCH)
        for name in ("squeue", "scancel", "scontrol"):
            self.fake(name, "#!/bin/bash\n")
        self.environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS_OF_SBATCH": str(self.calls)}
        self.prefix = tmp_path / "out" / "code"
        self.launch = tmp_path / "out" / "code.launch"

    def fake(self, name: str, text: str) -> None:
        """A command that the jobs find on their PATH."""
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def request(self, **changes: object) -> EncodeRequest:
        wanted = {
            "tokenizer": str(self.data / "tokenizer"), "inputs": (str(self.data / "corpus" / "train" / "code.jsonl"),),
            "output": "out/code", "parts": 3, "hours": 1.0, "workers": 1, "shuffle_seed": 7, "account": account_of("local"),
        }  # fmt: skip
        return EncodeRequest(**{**wanted, **changes})  # pyright: ignore[reportArgumentType]

    def render(self, site_name: str = "local", **changes: object) -> Path:
        return render_encode(plan_encode(site_name, site_of(site_name), self.request(**changes), self.places))

    def run(self, script: str, *before: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Args: before, a command that starts the script."""
        environment = {**os.environ, **self.environment, **variables}
        command = [*before, "bash", str(self.launch / script)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def merge_on_a_full_disk(self, *, room: int) -> subprocess.CompletedProcess[str]:
        """jobs.jsonl may grow by so many bytes. Every other file is smaller than it is."""
        path, size = self.launch / "jobs.jsonl", 1 << 22
        with path.open("a") as stream:
            stream.write(" " * (size - path.stat().st_size - 1) + "\n")
        return self.run("merge.sbatch", "prlimit", f"--fsize={size + room}")

    def task(self, part: int) -> subprocess.CompletedProcess[str]:
        """A task, with its log where Slurm puts it."""
        done = self.run("encode.sbatch", SLURM_ARRAY_TASK_ID=str(part))
        (self.launch / "logs" / f"{part}.out").write_text(done.stdout + done.stderr)
        return done

    def code(self, part: int) -> str:
        return (self.launch / "exit-codes" / str(part)).read_text().strip()

    def queued(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []
