"""Imports of torch and megatron-core that cost less: a third of the questions to the file system, three quarters of the time.

What they do at import that a run does not need: megatron-core 0.16.1 decorates 40 functions with ``torch.compile``, which brings
in TorchDynamo and Inductor, though our layers call none of them; each operator that torch registers has Python's ``inspect``
follow the links of every module's path to learn which module a frame is of; and Python looks for garbage in what only grows:
while it is imported, after it, and at the end of the process, when it takes all of it apart.
Figures: docs/decisions/parallelism.md.
"""

import contextlib
import functools
import gc
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

MEGATRON_JIT = "megatron.core.jit"


def compile_at_first_call() -> None:
    """Have megatron-core's fused functions compiled when one is called, not when megatron-core is imported.

    The module of its decorator is taken by one of ours; where megatron-core has been imported already, nothing changes.
    """
    if MEGATRON_JIT not in sys.modules:
        module: Any = types.ModuleType(MEGATRON_JIT)
        module.jit_fuser = _compiled_at_first_call
        sys.modules[MEGATRON_JIT] = module


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Within the block, which imports and does nothing else, ``inspect`` asks a frame for its module, and garbage stays.

    What is there at its end is frozen (``gc.freeze``): no search for garbage walks it from now on, here or in a process that is
    forked from this one, where each page that a search touches would be copied.
    """
    sought = inspect.getmodule

    def module_of(thing: Any, _filename: str | None = None) -> types.ModuleType | None:
        if inspect.isframe(thing):
            name: Any = thing.f_globals.get("__name__")
            return sys.modules.get(name)
        return sought(thing, _filename)

    inspect.getmodule = module_of
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        inspect.getmodule = sought
        gc.freeze()
        if collects:
            gc.enable()


def _compiled_at_first_call(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal compiled
        import torch

        if torch.compiler.is_compiling():  # one fused function calls another: they are one graph
            return function(*args, **kwargs)
        if compiled is None:
            compiled = torch.compile(function)
        return compiled(*args, **kwargs)

    return call
