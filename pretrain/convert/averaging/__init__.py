"""Averaging room: the mean of the weights of several checkpoints becomes a checkpoint."""
