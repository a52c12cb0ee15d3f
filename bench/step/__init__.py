"""One training step, ours beside others': the same model, weights and batches, taken in turns. ``python -m bench.step``."""
