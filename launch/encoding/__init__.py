"""Encoding room: a tokenization as an array of jobs."""
