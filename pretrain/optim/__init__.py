"""Optim room: optimizers through megatron-core, a file each, and the learning rate as a pure function of samples."""
