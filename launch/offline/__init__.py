"""Environments for machines without internet: an archive made elsewhere, for the processor of their nodes."""
