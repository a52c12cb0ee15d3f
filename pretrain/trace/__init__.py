"""``fanal trace``: from a step to its documents, and from a document to its steps, by arithmetic alone."""
