"""Documents room: files of text in any of the usual forms, read as documents."""
