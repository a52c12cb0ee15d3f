"""Ground floor: what every package needs: errors and exit codes, files written whole, the names in a run folder."""
