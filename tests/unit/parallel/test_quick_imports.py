"""Imports of torch and megatron-core cost what a run needs of them, and give what they gave."""

import gc
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.parallel import quick_imports as module
from pretrain.parallel.quick_imports import MEGATRON_JIT, compile_at_first_call, quick_imports

ROOT = Path(__file__).parents[3]
OF_A_RANK = """
import json, os, sys
real, asked = os.lstat, 0
def lstat(*args, **kwargs):
    global asked
    asked += 1
    return real(*args, **kwargs)
os.lstat = lstat  # os.path.realpath asks for each part of a path
from pretrain.parallel.quick_imports import quick_imports
with quick_imports():
    import pretrain.train.loop
print(json.dumps({"links": asked, "modules": sorted(sys.modules)}))
"""


def test_a_rank_follows_no_links_of_modules_and_imports_no_compiler() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OF_A_RANK], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["links"] < 1_000  # 18,000 where inspect looks for the modules of frames
    assert "megatron.core.models.gpt" in found["modules"]
    assert "torch._inductor.compile_fx" not in found["modules"]
    assert "fanal.kernels.triton_attention" in found["modules"]
    assert not [name for name in found["modules"] if name.startswith("fanal.kernels.triton.")], "those are for GPUs"


def test_a_frame_has_the_module_that_inspect_finds() -> None:
    frame = sys._getframe()
    found = inspect.getmodule(frame)
    with quick_imports():
        assert inspect.getmodule(frame) is found is sys.modules[__name__]
        assert inspect.getmodule(quick_imports) is module, "what is no frame is sought as before"


def test_what_was_imported_is_not_searched_for_garbage_again() -> None:
    before = gc.get_freeze_count()
    try:
        with quick_imports():
            made = [[] for _ in range(1_000)]
        assert gc.get_freeze_count() >= before + len(made)
    finally:
        gc.unfreeze()


def test_python_is_as_it_was_after_imports_that_fail() -> None:
    before = inspect.getmodule
    with pytest.raises(ImportError), quick_imports():
        assert not gc.isenabled()
        importlib.import_module("no_such_module")
    assert inspect.getmodule is before and gc.isenabled()


def test_megatron_core_takes_the_decorator_from_us() -> None:
    from megatron.core.jit import jit_fuser

    assert jit_fuser is module._compiled_at_first_call


def test_a_decorator_that_megatron_core_has_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MEGATRON_JIT, sys.modules[__name__])
    compile_at_first_call()
    assert sys.modules[MEGATRON_JIT] is sys.modules[__name__]


def test_fused_functions_are_compiled_once_when_called_and_one_inside_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = []

    def compile_(function, real=torch.compile):
        compiled.append(function.__name__)
        return real(function, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", compile_)

    @module._compiled_at_first_call
    def inner(values: torch.Tensor) -> torch.Tensor:
        """Double them."""
        return values * 2

    @module._compiled_at_first_call
    def outer(values: torch.Tensor) -> torch.Tensor:
        return inner(values) + 1

    assert compiled == [] and inner.__doc__ == "Double them."
    assert [outer(torch.ones(2)).tolist() for _ in range(2)] == [[3.0, 3.0]] * 2
    assert compiled == ["outer"]
    assert inner(torch.ones(2)).tolist() == [2.0, 2.0] and compiled == ["outer", "inner"]
