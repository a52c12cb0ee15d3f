"""Checkpoint room: a directory per step, whole or not there."""
