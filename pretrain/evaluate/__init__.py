"""``fanal evaluate``: figures of a checkpoint, by lm-eval on an export, or by our own loss on held-out shards."""
