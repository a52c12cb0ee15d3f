"""Exit codes. How the process ends is an interface: launch scripts decide by it."""

from typing import Final

FINISHED: Final = 0
DIFFERENT: Final = 1
"""``fanal prove`` found a difference. No training run ends with it."""
WRONG_INPUT: Final = 2
"""The user's input is wrong; starting again will not help."""
CRASH: Final = 70
HARDWARE: Final = 71
"""Of a rank alone: its device or node failed, as its driver says. The run itself ends with CRASH; another node may work."""
STOPPED: Final = 75
"""Stopped on request with a checkpoint saved; start again to continue."""
DAMAGED: Final = 76
"""Data or a checkpoint failed verification; starting again reads the same bytes."""
HANG: Final = 77
"""A rank was cut off by its watchdog; starting again may help, a limited number of times."""
INTERRUPTED: Final = 130
"""Ended at once by Ctrl-C, the second one of a run: what was not saved is lost; start again to continue from what was."""
OUTPUT_CLOSED: Final = 141
"""Nobody reads standard output any more, as after ``| head``: a command that prints ended quietly. No training run ends with it."""

OF_A_RUN: Final = (FINISHED, WRONG_INPUT, CRASH, STOPPED, DAMAGED, HANG)
"""Exit codes of a run that came as far as our code."""
