"""Preflight room: data, space and every node are checked before a run costs anything."""
