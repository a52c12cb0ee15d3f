"""Our side of a conversion: a checkpoint, as an export or an import sees it."""
