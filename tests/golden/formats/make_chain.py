"""How v3/chain/ was made, by the code of the commit that is in ``git log`` of it: ``python -m tests.golden.formats.make_chain FOLDER``,
as root, with Slurm's programs and nothing there.

A chain on a real Slurm of three nodes, of which two train: preflight finds a disk of n1 broken, a rank is killed and the job restarts
inside its allocation, its decisions are told to a webhook, two checkpoints are evaluated. Then a person excludes n2 and allows n3,
while a job of another chain waits. Made twice, only times, speeds, numbers of jobs and processes, hashes and versions differ.
"""

import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from fanal.run_folder import EVALUATIONS_DIR, EVALUATIONS_FILE, JOBS_FILE
from launch.chain.evaluation_watch import EVALUATIONS_NOTED
from launch.chain.notify import NOTIFIED
from launch.chain.webhook import URL
from tests.runs.small import make_small_data, write_small_run
from tests.slurm.chains import INTERVAL, Chain
from tests.slurm.cluster import Cluster

ONE_RANK_A_NODE = ("parallel.tensor_model_parallel_size=1", "parallel.data_parallel_size=2")
ALONE = ("parallel.tensor_model_parallel_size=1", "parallel.data_parallel_size=1")
BROKEN_DISK = """
import os
is_check = b"launch.preflight.node_check" in open("/proc/self/cmdline", "rb").read()
if is_check and os.environ.get("SLURMD_NODENAME") == "n1":
    os.fsync = lambda _: open("/no such disk")
"""


class Webhook(http.server.BaseHTTPRequestHandler):
    """Takes every message."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()


def main(folder: Path) -> None:
    """All of v3/chain/, and nothing else."""
    with (
        tempfile.TemporaryDirectory() as place,
        Cluster(("n1", "n2", "n3")) as cluster,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as listening,
    ):
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        run_dir, other_dir = Path(place) / "run", Path(place) / "other"
        data, site = Path(place) / "data", Path(place) / "site"
        data.mkdir()
        site.mkdir()
        (site / "sitecustomize.py").write_text(BROKEN_DISK)
        cluster.env |= {
            "PYTHONPATH": f"{site}:{cluster.env.get('PYTHONPATH', '')}", URL: f"http://127.0.0.1:{listening.server_port}/a",
        }  # fmt: skip
        make_small_data(data)
        config = write_small_run(data)
        chain = Chain(cluster, config, run_dir, overrides=ONE_RANK_A_NODE)
        chain.submit(
            "--hours", "0.5", "--spare-nodes", "1", "--preflight", "--evaluate-every", "3", "--evaluate-by", "domain"
        )
        chain.until_step(INTERVAL + 3)
        chain.kill_a_rank()
        chain.until_over()
        assert [action for action, _ in chain.decisions()] == ["restart", "finish"], chain.story()
        other = Chain(cluster, config, other_dir, overrides=ALONE)
        assert other.launch("render", "--nodes", "1", "--hours", "0.5").returncode == 0
        cluster.sbatch(other_dir / "launch" / "job.sbatch", "--hold")
        for options in (("--exclude", "n2", "--hours", "8000", "--reason", "slow fan"), ("--allow", "n3")):
            words = [sys.executable, "-m", "launch", "nodes", *options]
            subprocess.run(words, env=cluster.env, check=True, timeout=120)
        (folder / "launch").mkdir(parents=True)
        for name in (JOBS_FILE, EVALUATIONS_NOTED, NOTIFIED):
            shutil.copy(run_dir / "launch" / name, folder / "launch" / name)
        shutil.copytree(run_dir / EVALUATIONS_DIR, folder / EVALUATIONS_DIR, ignore=shutil.ignore_patterns("*lock*"))
        shutil.copy(run_dir / EVALUATIONS_FILE, folder / EVALUATIONS_FILE)
        for path in cluster.folder.glob(f"{cluster.nodes_file.name}*"):
            shutil.copy(path, folder / path.name.replace("nodes.txt", "nodes-test.txt"))


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]).absolute())
