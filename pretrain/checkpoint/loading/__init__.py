"""Loading room: which checkpoint a run resumes from, and how each rank gets its part (resharding)."""
