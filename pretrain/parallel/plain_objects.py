"""torch's object collectives, which megatron-core calls as its optimizer is built, taught to read plain values alone.

They send pickles. Whoever reads one runs what it names; here it may name nothing. What is left is numbers, texts, truth values,
None, and lists, tuples, dicts and sets of them, which is what megatron sends on our path.
"""

import pickle
from typing import Any

from torch.distributed import distributed_c10d


class PlainUnpickler(pickle.Unpickler):
    """A reader of pickles that loads no class and calls no function."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse. Raises: UnpicklingError."""
        raise pickle.UnpicklingError(
            f"an object of another rank names {module}.{name}; between ranks only plain values are read"
        )


def read_plain_objects_alone() -> None:
    """Have every object collective of this process read by PlainUnpickler. May be called again."""
    assert hasattr(distributed_c10d, "_unpickler"), "torch reads the objects of its collectives by another name"
    distributed_c10d._unpickler = PlainUnpickler  # pyright: ignore[reportPrivateUsage]
