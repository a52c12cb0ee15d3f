"""The rules of the house that a machine can hold: imports go one way, files and functions stay small, one room for devices."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("fanal", "tokenizer", "pretrain", "launch")
"""What is installed. ``fanal/kernels`` is a link to ``kernels``: Hugging Face has a package of that name."""
FLOORS = (
    "fanal", "fanal.kernels",
    "tokenizer.documents", "tokenizer.vocabulary", "tokenizer.shards", "tokenizer.encoding", "tokenizer.search", "tokenizer.overlap",
    "tokenizer",
    "pretrain.config", "pretrain.model.families", "pretrain.state", "pretrain.parallel", "pretrain.data", "pretrain.model", "pretrain.optim",
    "pretrain.checkpoint.disk", "pretrain.checkpoint.content", "pretrain.checkpoint.saving", "pretrain.checkpoint.loading",
    "pretrain.log", "pretrain.train", "pretrain.history", "pretrain.ledger", "pretrain.rehearse", "pretrain.plan",
    "pretrain.convert.ours", "pretrain.convert.theirs", "pretrain.convert.importing", "pretrain.convert.averaging", "pretrain.convert.certificate",
    "pretrain.convert.exporting", "pretrain.convert", "pretrain.inspect", "pretrain.evaluate", "pretrain.trace", "pretrain.report", "pretrain.drafts", "pretrain",
    "launch.slurm", "launch.sites", "launch.planning", "launch.chain", "launch.preflight", "launch.encoding", "launch.status", "launch",
    "fanal.command", "fanal.__main__",
)  # fmt: skip
"""Rooms from the ground up: a room imports from itself and from those before it."""
CLOSED = {
    "launch": ("pretrain.", "tokenizer", "fanal.kernels"),
    "fanal.kernels": ("fanal",),
    "pretrain.config": ("tokenizer", "fanal.kernels"),
}
"""What a package may not import although it stands above it; ``launch`` reads configs, and little else of the trainer."""
OPEN = {
    "launch": (
        "pretrain.config.",
        "pretrain.model.families.",
        "pretrain.optim.registry",
        "pretrain.plan.",
        "pretrain.report.chart",
        "pretrain.report.markup",
        "pretrain.report.style",
        "pretrain.data.passes",
        "pretrain.data.sources",
    ),  # the report's: a picture of scaling; the last two: preflight says how often a run reads its text
    "fanal.kernels": ("fanal.kernels.", "fanal.errors"),
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80


def python_files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))
    yield from sorted((ROOT / "fanal" / "kernels").rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The room that a dotted name lies in: the longest floor that it begins with."""
    rooms = [room for room in FLOORS if f"{module}.".startswith(f"{room}.")]
    assert rooms, f"{module} is in no room; add it to FLOORS"
    return max(rooms, key=len)


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Dotted names of what a file imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that the room can be read"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(module: str, tree: ast.Module) -> list[str]:
    """Imports that go up a floor, or into a package that is closed to this one."""
    wrong = []
    for name in imports_of(tree):
        if name.split(".")[0] in ("tests", "bench", "kernels"):
            wrong.append(f"{module} imports {name}")
        if name.split(".")[0] not in PACKAGES:
            continue
        upwards = FLOORS.index(room_of(name)) > FLOORS.index(room_of(module))
        closed = any(
            f"{module}.".startswith(f"{inside}.")
            and name.startswith(CLOSED[inside])
            and not name.startswith(OPEN.get(inside, ("\0",)))
            for inside in CLOSED
        )
        if upwards or closed:
            wrong.append(f"{module} imports {name}")
    return wrong


def long_parts(text: str) -> list[str]:
    """The file, if it is too long, and its functions that are."""
    lines = len(text.splitlines())
    return [f"{lines} lines; {MAX_FILE_LINES} are allowed"] * (lines > MAX_FILE_LINES) + [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines; {MAX_FUNCTION_LINES} are allowed"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]


def changes_of_libraries(tree: ast.Module) -> list[str]:
    """Places that change torch or megatron themselves, or name the CUDA tensors that a CPU pretends to have."""
    names = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname for a in node.names if a.asname and a.name.split(".")[0] in ("torch", "megatron")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("torch", "megatron"):
            names |= {alias.asname or alias.name for alias in node.names}

    found = []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        targets = [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else targets
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "vars"):
            targets = [ast.Attribute(argument, "") for argument in node.args[:1]]
        found += [
            ast.unparse(target)
            for target in targets
            if isinstance(target, ast.Attribute | ast.Subscript) and ast.unparse(target).split(".")[0] in names
        ]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "torch.cuda" in node.value:
            found.append(f"the string {node.value!r}")
    return found


def test_imports_go_one_way_from_the_ground_up() -> None:
    wrong = [line for path in python_files() for line in wrong_imports(module_of(path), ast.parse(path.read_text()))]
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_small() -> None:
    long = [f"{path.relative_to(ROOT)}: {part}" for path in python_files() for part in long_parts(path.read_text())]
    assert not long, "\n".join(long)


def test_only_the_files_for_devices_and_the_reader_of_objects_change_torch_or_megatron() -> None:
    changing = [ROOT / "pretrain" / "parallel" / name for name in ("device.py", "plain_objects.py")]
    changing.append(ROOT / "pretrain" / "rehearse" / "stand_ins.py")  # in a process that is good for nothing else
    files = [path for path in python_files() if path not in changing]
    found = [f"{path}: {place}" for path in files for place in changes_of_libraries(ast.parse(path.read_text()))]
    assert not found, "\n".join(found)


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = [path for path in python_files() if path.stem in ("utils", "util", "helpers", "misc", "common")]
    assert not drawers, f"give these a name that says what is inside: {drawers}"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("pretrain.config.load", "from pretrain.parallel.world import World"),
        ("pretrain.optim.adamw", "def f():\n    from pretrain.train import loop"),
        ("pretrain.checkpoint.disk.tensors", "from pretrain.checkpoint.saving import save"),
        ("pretrain.config.load", "import tokenizer.shards.shard"),
        ("tokenizer.shards.writer", "from tokenizer.encoding import merge"),
        ("tokenizer.shards.writer", "from pretrain.config import load"),
        ("launch.status.status", "from pretrain.model import gpt"),
        ("fanal.kernels.attention", "from fanal import files"),
        ("fanal.files", "from pretrain.config import schema"),
        ("pretrain.__main__", "from fanal.command import run"),
        ("pretrain.train.loop", "from tests.runs import cases"),
        ("pretrain.model.gpt", "from kernels.attention import causal_attention"),
    ],
)
def test_an_import_that_goes_up_is_found(module: str, line: str) -> None:
    assert wrong_imports(module, ast.parse(line))


def test_an_import_that_goes_down_is_allowed() -> None:
    lines = "import torch\nfrom pretrain.config.schema import RunConfig\nimport pretrain.data.blend\nfrom fanal import files"
    assert not wrong_imports("pretrain.train.loop", ast.parse(lines))
    assert not wrong_imports(
        "launch.chain.job", ast.parse("from pretrain.config import load\nfrom launch import slurm")
    )


def test_long_files_and_functions_are_found() -> None:
    assert len(long_parts("pass\n" * (MAX_FILE_LINES + 1))) == 1
    assert len(long_parts("def f():\n" + "    pass\n" * MAX_FUNCTION_LINES)) == 1
    assert not long_parts("def f():\n" + "    pass\n" * (MAX_FUNCTION_LINES - 1))


@pytest.mark.parametrize(
    "line",
    [
        "torch.cuda.synchronize = print",
        "setattr(torch.Tensor, 'cuda', f)",
        "x.type() == 'torch.cuda.FloatTensor'",
        "del torch.Tensor.cuda",
        "vars(torch)['cuda'] = f",
        "import torch.cuda as gpu\ngpu.synchronize = f",
        "from torch import Tensor\nTensor.cuda = f",
        "def f():\n    import megatron.core.utils as u\n    u.torch = other",
    ],
)
def test_a_change_of_a_library_is_found(line: str) -> None:
    assert changes_of_libraries(ast.parse(line))
    assert not changes_of_libraries(
        ast.parse("x = torch.zeros(2)\nx.grad = None\nself.torch = torch.cuda.current_device()")
    )
