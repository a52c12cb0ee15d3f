"""Data room: sample number -> source -> chunk -> tokens, by arithmetic alone."""
