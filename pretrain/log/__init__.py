"""Log room: one record, several sinks."""
