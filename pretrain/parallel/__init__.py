"""Parallel room: ranks, process groups, devices and the collectives on plain numbers."""
