"""Plants a bug in a process that was started as any user starts it, and in those that it starts: they all read this first.

PLANT is MODULE:ATTRIBUTE:BUG (tests/errors/planted.py), or MODULE:ATTRIBUTE:BUG:RANK for one rank alone.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from typing import Any


class Planter(importlib.abc.MetaPathFinder):
    """Replaces the attribute when its module has just been imported."""

    def __init__(self, module: str, attribute: str, bug: str, rank: str | None = None) -> None:
        self.module, self.attribute, self.bug, self.rank = module, attribute, bug, rank

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None, fullname
        execute = spec.loader.exec_module

        def execute_and_plant(module: types.ModuleType) -> None:
            execute(module)
            self._plant(module)

        spec.loader.exec_module = execute_and_plant  # type: ignore[method-assign]
        return spec

    def _plant(self, module: types.ModuleType) -> None:
        from tests.errors.planted import BUGS

        *owners, name = self.attribute.split(".")
        owner: Any = module
        for part in owners:
            owner = getattr(owner, part)
        sound = getattr(owner, name)

        def stand_in(*arguments: Any, **keywords: Any) -> Any:
            if self.rank in (None, os.environ.get("RANK")):
                BUGS[self.bug]()
            return sound(*arguments, **keywords)

        setattr(owner, name, stand_in)


if "PLANT" in os.environ:
    sys.meta_path.insert(0, Planter(*os.environ["PLANT"].split(":")))
