"""Optim room: AdamW through megatron-core's optimizers, and the learning rate as a pure function of samples."""
