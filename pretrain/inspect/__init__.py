"""Inspect room: what a config means, without training it."""
