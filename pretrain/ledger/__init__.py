"""The account of a run: what it read, who started and stopped it, what it cost."""
