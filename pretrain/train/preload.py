"""What the process that local ranks are forked from imports, once for all of them. Nothing is computed here: a thread would not
survive a fork."""

from pretrain.parallel.quick_imports import quick_imports

with quick_imports():
    import pretrain.train.loop as _loop

IMPORTED = (_loop,)
