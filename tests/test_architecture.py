"""The house rules that a machine can hold: one street, small files, small functions, one device room."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STREET = (
    "config", "state", "parallel", "data", "model", "optim", "checkpoint", "log", "train", "convert", "inspect", "plan", "__main__",
)  # fmt: skip
"""Rooms of pretrain from left to right: a room imports only from itself and from rooms to its left."""
HALLWAY = {"exit_codes"}
"""What every room may import; itself imports no room of pretrain."""
OUTSIDE = {
    "kernels": set(),
    "tokenizer": set(),
    # The config, and names that are an interface: exit codes, a checkpoint's folder, the file of the metrics.
    "launch": {
        "pretrain.config",
        "pretrain.exit_codes",
        "pretrain.checkpoint.paths",
        "pretrain.log.run_dir",
        "pretrain.train.request_files",
    },
}
"""What the packages beside pretrain may import of the project: modules, or packages with all that is in them."""
MAY_IMPORT_KERNELS = {"model"}
MAY_IMPORT_TOKENIZER = {"exit_codes", "data", "convert", "inspect"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80


def python_files(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).rglob("*.py"))


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Dotted names of all imports, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that the street can be read"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_way(room: str, tree: ast.Module) -> list[str]:
    """Imports of a room of pretrain that go against the street."""
    found = []
    for name in imported_modules(tree):
        parts = name.split(".")
        wrong = (
            (parts[0] == "kernels" and room not in MAY_IMPORT_KERNELS)
            or (parts[0] == "tokenizer" and room not in MAY_IMPORT_TOKENIZER)
            or parts[0] in ("launch", "tests")
        )
        if parts[0] == "pretrain" and len(parts) > 1 and parts[1] not in HALLWAY:
            wrong = room in HALLWAY or STREET.index(parts[1]) > STREET.index(room)
        if wrong:
            found.append(f"{room} imports {name}")
    return found


def wrong_outside(package: str, tree: ast.Module) -> list[str]:
    """Imports of a package beside pretrain that leave it where they must not."""
    projects = {"pretrain", "tokenizer", "kernels", "launch", "tests"} - {package}
    return [
        f"{package} imports {name}"
        for name in imported_modules(tree)
        if name.split(".")[0] in projects
        and not any(f"{name}.".startswith(f"{allowed}.") for allowed in OUTSIDE[package])
    ]


def long_functions(tree: ast.Module) -> list[str]:
    return [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]


def long_file(text: str) -> list[str]:
    lines = len(text.splitlines())
    return [f"{lines} lines; {MAX_FILE_LINES} are allowed"] if lines > MAX_FILE_LINES else []


def is_drawer(path: Path) -> bool:
    """Whether a file's name says nothing about what is inside."""
    return path.stem in ("utils", "util", "helpers", "misc", "common")


def borrowed_names(tree: ast.Module) -> set[str]:
    """Names in a file that stand for torch, megatron or something of theirs."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound = [(alias.name, alias.asname or alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            bound = [(f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names]
        else:
            continue
        names |= {name for source, name in bound if source.split(".")[0] in ("torch", "megatron")}
    return names


def stand_ins(tree: ast.Module) -> list[str]:
    """Places that change torch or megatron themselves, or name the CUDA tensors that a CPU pretends to have."""
    found = []
    borrowed = borrowed_names(tree) | {"torch"}

    def changes_torch(target: ast.expr) -> bool:
        return isinstance(target, ast.Attribute | ast.Subscript) and ast.unparse(target).split(".")[0] in borrowed

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        else:
            targets = [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []
        found += [ast.unparse(target) for target in targets if changes_torch(target)]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "vars"):
            found += [ast.unparse(node)] if node.args and ast.unparse(node.args[0]).split(".")[0] in borrowed else []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "torch.cuda" in node.value:
            found.append(f"the string {node.value!r}")
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "pretrain").parts[0].removesuffix(".py")


def test_imports_go_one_way_along_the_street() -> None:
    wrong = []
    for path in python_files("pretrain"):
        if path != ROOT / "pretrain" / "__init__.py":
            wrong += wrong_way(room_of(path), ast.parse(path.read_text()))
    for package in OUTSIDE:
        for path in python_files(package):
            wrong += wrong_outside(package, ast.parse(path.read_text()))
    assert not wrong, "\n".join(wrong)


def test_every_room_of_pretrain_is_on_the_street() -> None:
    rooms = {room_of(path) for path in python_files("pretrain")} - {"__init__"} - HALLWAY
    assert rooms <= set(STREET), f"not on the street: {sorted(rooms - set(STREET))}"


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("config", "from pretrain.parallel.world import World"),
        ("data", "import pretrain.model.gpt"),
        ("optim", "def f():\n    from pretrain.train import loop"),
        ("train", "from kernels.attention import causal_attention"),
        ("model", "import tokenizer.shards"),
        ("log", "from launch import render"),
        ("state", "from pretrain.parallel import world"),
        ("config", "from pretrain.state import TrainState"),
        ("checkpoint", "from pretrain import log"),
        ("convert", "import pretrain.__main__"),
        ("exit_codes", "from pretrain.config.schema import RunConfig"),
        ("train", "from tests.runs import cases"),
    ],
)
def test_an_import_against_the_street_is_found(room: str, line: str) -> None:
    assert wrong_way(room, ast.parse(line))


def test_an_import_along_the_street_is_not() -> None:
    assert not wrong_way(
        "train", ast.parse("import torch\nfrom pretrain.config.schema import RunConfig\nimport pretrain.data.blend")
    )


def test_a_relative_import_is_refused_since_it_hides_its_room() -> None:
    with pytest.raises(AssertionError, match="imports are absolute here"):
        list(imported_modules(ast.parse("from ..model import gpt")))


def test_kernels_that_import_the_trainer_are_found() -> None:
    assert wrong_outside("kernels", ast.parse("from pretrain.config import schema"))
    assert wrong_outside("launch", ast.parse("from pretrain.model import gpt"))
    assert wrong_outside("tokenizer", ast.parse("from pretrain.config import load"))
    assert wrong_outside("kernels", ast.parse("def f():\n    import tokenizer.shards"))
    assert not wrong_outside("launch", ast.parse("from pretrain.config import load"))
    assert not wrong_outside("launch", ast.parse("from pretrain.checkpoint.paths import COMPLETE"))
    assert wrong_outside("launch", ast.parse("from pretrain.checkpoint import load"))
    assert wrong_outside("launch", ast.parse("from pretrain.checkpoint.paths_of_others import COMPLETE"))


def test_files_and_functions_of_pretrain_stay_small() -> None:
    too_long = []
    for path in python_files("pretrain"):
        text = path.read_text()
        too_long += [f"{path.relative_to(ROOT)} has {found}" for found in long_file(text)]
        too_long += [
            f"{path.relative_to(ROOT)}: {name}; {MAX_FUNCTION_LINES} are allowed"
            for name in long_functions(ast.parse(text))
        ]
    assert not too_long, "\n".join(too_long)


def test_a_long_function_is_found() -> None:
    assert long_functions(ast.parse("def f():\n" + "    pass\n" * MAX_FUNCTION_LINES)) == ["f has 81 lines"]
    assert not long_functions(ast.parse("def f():\n" + "    pass\n" * (MAX_FUNCTION_LINES - 1)))


def test_a_long_file_is_found() -> None:
    assert long_file("pass\n" * (MAX_FILE_LINES + 1)) == ["401 lines; 400 are allowed"]
    assert not long_file("pass\n" * MAX_FILE_LINES)


def test_nothing_outside_the_device_file_mentions_cuda_stand_ins() -> None:
    found = []
    for package in ("pretrain", "kernels", "tokenizer", "launch"):
        for path in python_files(package):
            if path != ROOT / "pretrain" / "parallel" / "device.py":
                found += [f"{path.relative_to(ROOT)}: {place}" for place in stand_ins(ast.parse(path.read_text()))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "torch.cuda.synchronize = print",
        "setattr(torch.Tensor, 'cuda', f)",
        "torch.Tensor.type = f",
        "x.type() == 'torch.cuda.FloatTensor'",
        "torch.cuda.current_device: object = f",
        "del torch.Tensor.cuda",
        "torch.__dict__['cuda'] = f",
        "vars(torch)['cuda'] = f",
        "import torch.cuda as gpu\ngpu.synchronize = f",
        "from torch import Tensor\nTensor.cuda = f",
        "def f():\n    import megatron.core.utils as u\n    u.torch = other",
        "from megatron.core.tensor_parallel import random\nsetattr(random, '_get_cuda_rng_state', f)",
    ],
)
def test_a_stand_in_elsewhere_is_found(line: str) -> None:
    assert stand_ins(ast.parse(line))


def test_using_torch_is_no_stand_in() -> None:
    assert not stand_ins(
        ast.parse("import torch\nx = torch.zeros(2)\nx.grad = None\nself.torch = torch.cuda.current_device()")
    )


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = [path for package in ("pretrain", *OUTSIDE) for path in python_files(package) if is_drawer(path)]
    assert not drawers, f"give these a name that says what is inside: {drawers}"


def test_a_drawer_is_found() -> None:
    assert is_drawer(Path("pretrain/data/utils.py")) and not is_drawer(Path("pretrain/data/blend.py"))
