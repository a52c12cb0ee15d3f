"""Overlap of training shards with held-out text: which n-grams of it they hold, in which documents."""
