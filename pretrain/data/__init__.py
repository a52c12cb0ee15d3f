"""Data room: the dataloader. Sample number -> source -> chunk -> tokens, by arithmetic alone."""
