"""Pretrain foundation language models: one YAML is one run, and a run can be proved."""
