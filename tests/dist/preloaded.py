"""What the fork server of a test session imports before the first rank: the trainer, and the tests' own side of a rank.

A rank that is forked from a server without it spends four seconds of a core. What is imported is then taken from the garbage
collector: a rank's collections would walk all of it, and copy each page that they touch (a quarter of a short run's processor
time, and half of its page faults). Nothing is computed here, so the server has one thread.
"""

import gc

import numpy.ma as _numpy_ma
import torch.profiler as _profiler

import tests.dist.harness as _ranks

IMPORTED = (_numpy_ma, _profiler, _ranks)
"""The harness imports the trainer; the others come at a rank's first step."""

gc.collect()
gc.freeze()
