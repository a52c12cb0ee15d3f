"""Ours: what a checkpoint holds, as an export or an import sees it."""
