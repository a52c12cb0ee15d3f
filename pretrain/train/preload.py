"""What the process that local ranks are forked from imports, once for all of them: the trainer, and what a rank asks for later.

Nothing is computed here: a thread would not survive a fork. What is imported is frozen (quick_imports.py), so that a rank's search
for garbage does not walk it, and copy every page of it.
"""

import atexit
import os

from pretrain.parallel.quick_imports import quick_imports


def _end_at_once(server: int) -> None:
    """End the server: Python would first take all modules apart, for half a second in which the run's output stays open."""
    if os.getpid() == server:
        os._exit(0)


atexit.register(_end_at_once, os.getpid())  # before the imports: what is registered first runs last

with quick_imports():
    import encodings.idna as _idna  # for the name of the host where ranks meet

    import numpy.ma as _numpy_ma  # this and the next for a rank's first step
    import torch.profiler as _profiler

    import pretrain.train.loop as _loop

IMPORTED = (_idna, _numpy_ma, _profiler, _loop)
