"""Launch room: from one YAML to jobs on a cluster. It imports pretrain.config only."""
