"""What the fork server of a test session imports before the first rank: what that of a run does, and the tests' own side of a rank.

A rank that is forked from a server without it spends seconds of a core. What is imported is then taken from the garbage collector:
a rank's collections would walk all of it, and copy each page that they touch (a quarter of a short run's processor time, and half of
its page faults). Nothing is computed here, so the server has one thread.
"""

import gc

import pretrain.train.preload as _trainer
import tests.dist.harness as _ranks

IMPORTED = (_trainer, _ranks)

gc.collect()
gc.freeze()
