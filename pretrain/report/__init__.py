"""The report of a run: one HTML file for people, made of what the run folder holds; it opens without a network."""
