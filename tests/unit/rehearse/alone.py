"""Code that runs in a process of its own: one that has rehearsed is good for nothing else.

It is forked from a server that has imported what rehearsals import, once for all tests of a worker: an import takes more of a core than
most of what is asked.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SETTINGS = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"}
SERVER = """
import gc, json, os, sys
import torch._dynamo
import pretrain.rehearse.rank
assert len(os.listdir("/proc/self/task")) == 1, "a thread does not survive a fork"
gc.collect()
gc.freeze()
for line in sys.stdin:
    code, output, errors = json.loads(line)
    child = os.fork()
    if child == 0:
        for stream, path in ((1, output), (2, errors)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def alone(code: str, *, forked: bool = True) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, from the root of the source. Args: forked: from the server; else Python starts anew."""
    if not forked:
        return subprocess.run(
            [sys.executable, "-c", code], env=_environment(), cwd=ROOT, capture_output=True, text=True
        )
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.NamedTemporaryFile() as output, tempfile.NamedTemporaryFile() as errors:
        server.stdin.write(json.dumps([code, output.name, errors.name]) + "\n")
        server.stdin.flush()
        said = server.stdout.readline()
        assert said, "the server of rehearsals has ended"
        texts = [Path(stream.name).read_text() for stream in (output, errors)]
    return subprocess.CompletedProcess([code], int(said), *texts)


def answer(code: str, *, forked: bool = True) -> Any:
    """Return what the code prints, which is JSON."""
    done = alone(code, forked=forked)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@cache
def _server() -> "subprocess.Popen[str]":
    """The process that others are forked from. It ends with this one, which holds its standard input."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", SERVER], env=_environment(), cwd=ROOT, text=True, **pipes)


def _environment() -> dict[str, str]:
    return {**os.environ, **SETTINGS}
