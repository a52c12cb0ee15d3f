"""No command reads a pickle that came from elsewhere: from a file, a store, or another rank. Every process of each is watched."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from omegaconf import OmegaConf

from fanal.command import fanal
from tests.dist.harness import make_run
from tests.dist.two_nodes import TwoNodes
from tests.runs.cases import DP2
from tests.runs.ssh_keys import make_key

ROOT = Path(__file__).parents[2]
WATCH = Path(__file__).parent / "pickle_watch"
PLAIN = "pretrain.parallel.plain_objects.PlainUnpickler"
PIPES = (
    "multiprocessing/spawn.py:_main",  # what a new process is told, by the one that starts it
    "multiprocessing/connection.py:_ConnectionBase.recv",  # a rank's last word to its starter
    "tokenizer/encoding/workers.py:_Pool.next_result",  # results of a worker, and its tasks
    "tokenizer/encoding/workers.py:_reply",
    "pretrain/parallel/local.py:_portable",  # of what it has just made itself
    "multiprocessing/queues.py:Queue.get",  # the tasks of `fanal rehearse`'s processes, one for each stage
)
"""Readers of pickles that a process has from its own parent or child, through a pipe that nobody else holds."""
OF_OTHERS = (
    "launch submit", "launch job begin", "launch job choose", "launch job end", "launch job merge", "launch preflight", "launch site-check",
    "launch pack-environment", "launch notify", "launch evaluations watch",
)  # fmt: skip
"""Commands that end early where no Slurm, no registry of packages or no webhook answers."""


@dataclass
class Watched:
    """Commands that were run, and the pickles that their processes have read."""

    folder: Path
    commands: list[tuple[str, ...]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """What has every process write down which pickles it reads."""
        return {"PYTHONPATH": f"{WATCH}:{ROOT}", "PICKLE_WATCH": str(self.folder)}

    def run(self, *command: object, **variables: str) -> None:
        """Run a command of ours."""
        words = tuple(map(str, command))
        done = subprocess.run(
            [sys.executable, "-m", "fanal", *words], cwd=ROOT, env={**os.environ, **self.environment(), **variables},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        name = " ".join(words)
        assert done.returncode == 0 or name.startswith(OF_OTHERS), f"{name}\n{done.stdout}{done.stderr}"
        self.commands.append(words)

    def reads(self) -> list[dict[str, object]]:
        """Each pickle that was read, and each class that one named."""
        return [json.loads(line) for path in self.folder.glob("*.jsonl") for line in path.read_text().splitlines()]

    def strange(self) -> list[dict[str, object]]:
        """Those from elsewhere."""
        return [read for read in self.reads() if not is_known(read)]


def is_known(read: dict[str, object]) -> bool:
    """Whether a pickle came through a pipe of ours, or named nothing."""
    places = read["places"]
    assert isinstance(places, list)
    return read["what"] == PLAIN or (bool(places) and places[0].endswith(PIPES))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    yield Watched(tmp_path_factory.mktemp("pickles"))


@pytest.fixture(scope="module")
def all_commands(
    watched: Watched, small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Watched:
    """Every command, on a small run of two local ranks."""
    folder = tmp_path_factory.mktemp("commands")
    tokenizer_commands(watched, data_folder, folder)
    run, steps = f"run_dir={folder / 'run'}", ("parallel.data_parallel_size=2", "checkpoint.interval=4")
    watched.run("show", small_run)
    watched.run("rehearse", small_run, "--ranks", 1, "--rank", 0)
    watched.run("plan", small_run, "--gpus", 1, "--gpu", "h100", "--top", 1)
    watched.run("train", small_run, run, *steps, "train.train_steps=4")
    watched.run("train", small_run, run, *steps, "train.train_steps=6")  # from its checkpoint
    watched.run("verify", folder / "run", "--deep")
    watched.run("ledger", folder / "run", "--json")
    watched.run("trace", folder / "run", "--step", 5, "--text")
    watched.run("trace", folder / "run", "--document", "train-code:1", "--deep")
    watched.run("report", folder / "run")
    watched.run("draft", folder / "run", "--to", folder / "drafts")
    watched.run("evaluate", folder / "run", "--perplexity", "--limit", 1)
    no_other_layout = (
        "model.num_layers=1",
        "model.num_attention_heads=1",
        "model.num_query_groups=1",
        "train.global_batch_size=2",
    )
    proof = ("--steps", 6, "--kills", 1, "--seed", 1)
    watched.run("prove", small_run, f"run_dir={folder / 'proof'}", *no_other_layout, *proof)
    watched.run("export", folder / "run", "--to", folder / "export", "--samples", 1)
    watched.run("sign", folder / "export", "--key", make_key(folder / "key"))
    watched.run("verify", folder / "export", "--public-key", folder / "key.pub", "--run", folder / "run", "--deep")
    watched.run("import", folder / "export", "--to", folder / "imported")
    watched.run("tokenizer", "import", folder / "export", "--output", folder / "imported-tokenizer")
    watched.run("average", folder / "run", "--last", 2, "--to", folder / "average")
    watched.run("generate", folder / "export", "--prompt", "a", "--max-new-tokens", 2)
    watched.run("generate", folder / "run", "--prompt", "a", "--max-new-tokens", 2)
    launch_commands(watched, small_run, data_folder, folder)
    watched.run("completion", "bash")
    return watched


def tokenizer_commands(watched: Watched, data: Path, folder: Path) -> None:
    spec = ROOT / "tokenizer" / "specs" / "tiny-2k.yaml"
    text, tokenizer = data / "corpus" / "validation" / "code.jsonl", folder / "tokenizer"
    watched.run("tokenizer", "sample-corpus", "--output", folder / "corpus", "--max-megabytes", 0.1)
    watched.run("tokenizer", "train", spec, "--input", data / "corpus" / "train" / "code.jsonl", "--output", tokenizer)
    watched.run("tokenizer", "check", "--tokenizer", tokenizer, "--input", text)
    for part in (1, 2):
        watched.run(
            "tokenizer", "encode", "--tokenizer", tokenizer, "--input", text, "--output", folder / "parts" / str(part),
            "--part", f"{part}/2", "--workers", 2,
        )  # fmt: skip
    watched.run("tokenizer", "merge", folder / "parts" / "1", folder / "parts" / "2", "--output", folder / "shard")
    watched.run("tokenizer", "verify", folder / "shard", "--deep", "--tokenizer", tokenizer)
    watched.run("tokenizer", "index", folder / "shard", "--tokenizer", tokenizer)
    watched.run("tokenizer", "search", folder / "shard", "--tokenizer", tokenizer, "--text", "import ")
    (folder / "list").write_text("0\n")
    watched.run(
        "tokenizer", "exclude", folder / "shard", "--documents", folder / "list", "--reason", "a test", "--output", folder / "without",
    )  # fmt: skip
    watched.run("tokenizer", "check-overlap", folder / "without", "--against", text, "--tokenizer", tokenizer)
    for kind in ("bin", "idx"):
        (folder / f"bare.{kind}").write_bytes((folder / f"shard.{kind}").read_bytes())
    watched.run("tokenizer", "adopt", folder / "bare", "--tokenizer", tokenizer)


def launch_commands(watched: Watched, config: Path, data: Path, folder: Path) -> None:
    job, keys = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}, (f"run_dir={folder / 'chain'}", *DP2)
    launch = folder / "chain" / "launch"
    options = ("--site", "local", "--nodes", 1)
    watched.run("launch", "render", config, *keys, *options, "--hours", 1)
    watched.run("launch", "submit", config, *keys, *options, "--hours", 1, SLURM_CONF="/nonexistent")
    watched.run("launch", "preflight", config, *keys, *options)
    watched.run("launch", "job", "begin", launch, **job)
    watched.run("launch", "job", "choose", launch, **job)
    watched.run("launch", "job", "end", launch, **job)
    watched.run("launch", "notify", "--from", folder / "chain", FANAL_WEBHOOK_URL="http://127.0.0.1:9/x")
    watched.run("launch", "evaluations", "watch", launch, "--once", **job)
    watched.run("launch", "evaluations", "end", launch, 4, 0, **job)
    watched.run("launch", "status", folder / "run")
    watched.run("launch", "chain", folder / "chain", "--until-step", 1)
    watched.run("launch", "nodes", FANAL_NODES_FILE=folder / "nodes.txt")
    watched.run("launch", "sites")
    watched.run("launch", "site-check", "local", SLURM_CONF="/nonexistent")
    (folder / "lock").write_text(f"click==8.1.7 --hash=sha256:{'0' * 64}\n")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    packed = ("--to", folder / "packed.tar", "--requirements", folder / "lock")
    watched.run("launch", "pack-environment", "--site", "jupiter", *packed, **nowhere)
    watched.run(
        "launch", "render-encode", "--site", "local", "--tokenizer", data / "tokenizer", "--input",
        data / "corpus" / "validation" / "code.jsonl", "--output", folder / "encoded", "--parts", 2, "--workers", 1, "--hours", 1,
    )  # fmt: skip
    watched.run("launch", "job", "merge", folder / "encoded.launch", **job)


def leaves(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command that a user can give."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from leaves(inner, *path, name)


def test_no_command_reads_a_pickle_from_elsewhere(all_commands: Watched) -> None:
    assert all_commands.strange() == []
    ran = {words[:number] for words in all_commands.commands for number in (1, 2, 3)}
    assert [words for words in leaves(fanal) if words not in ran] == [], "each command is watched"
    read = {str(read["what"]) for read in all_commands.reads()}
    assert "find_class pretrain.config.schema.RunConfig" in read, "local ranks were watched"
    assert PLAIN in read, "and what they send each other"


def test_no_rank_of_a_job_of_two_nodes_reads_a_pickle_from_elsewhere(small_run: Path, tmp_path: Path) -> None:
    watched = Watched(tmp_path / "pickles")
    watched.folder.mkdir()
    config = tmp_path / "config.yaml"
    overrides = ("train.train_steps=4", "checkpoint.interval=2")
    OmegaConf.save(OmegaConf.structured(make_run(small_run, tmp_path / "run", *DP2, *overrides)), config)
    for attempt in ("7-0", "7-1"):  # the second reads the first one's checkpoint
        with TwoNodes(tmp_path / attempt, config, variables=watched.environment()) as job:
            said = job.wait()
        assert [node.returncode for node in job.nodes] == [0, 0], said
        OmegaConf.save(OmegaConf.merge(OmegaConf.load(config), {"train": {"train_steps": 6}}), config)
    assert watched.strange() == []
    commands = {str(read["command"]) for read in watched.reads()}
    assert {PLAIN} == {read["what"] for read in watched.reads()} and len(list(watched.folder.iterdir())) == 4
    assert all("'pretrain', 'train'" in command for command in commands)


PLANTED = {
    "load": "import pickle; pickle.load(open({path!r}, 'rb'))",
    "a name of its own": "from pickle import loads; loads(open({path!r}, 'rb').read())",
    "an Unpickler": "import pickle; pickle.Unpickler(open({path!r}, 'rb')).load()",
    "one in Python": "import pickle; pickle._Unpickler(open({path!r}, 'rb')).load()",
    "in C": "import _pickle; _pickle.loads(open({path!r}, 'rb').read())",
    "numpy": "import numpy; numpy.load({path!r}, allow_pickle=True)",
    "a child": (
        "import multiprocessing, pickle\n"
        "def read(): pickle.load(open({path!r}, 'rb'))\n"
        "child = multiprocessing.get_context('fork').Process(target=read)\n"
        "child.start(); child.join()"
    ),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("content", [[1, "plain"], Path("a class")], ids=["plain values", "a class"])
def test_a_pickle_that_is_read_is_seen(name: str, content: object, tmp_path: Path) -> None:
    watched = Watched(tmp_path / "pickles")
    watched.folder.mkdir()
    path = tmp_path / "planted"
    path.write_bytes(pickle.dumps(content))
    program = PLANTED[name].format(path=str(path))
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **watched.environment()}, check=True, timeout=60)
    assert watched.strange()
