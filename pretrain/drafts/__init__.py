"""Drafts of documents that the law and the hubs ask for, filled from the ledger of a run and from nothing else."""
