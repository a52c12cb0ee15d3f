"""Chain room: a run as a chain of jobs, and what happens after each."""
