"""Search for text in token shards: every occurrence in the decoded text of the documents, and nothing else."""
