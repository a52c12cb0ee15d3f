"""Errors of files that another version, or a user, has left in a run folder."""

from fanal.errors import FanalError

UNREADABLE = (FanalError, ValueError, OSError, TypeError)
"""Errors that reading damaged YAML raises; omegaconf answers a mapping in the place of a list with a TypeError."""
