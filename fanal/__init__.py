"""Ground floor, what every package needs: errors and exit codes, files written atomically, the names in a run folder."""
