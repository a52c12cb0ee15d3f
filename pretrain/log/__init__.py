"""Log room: one record, three sinks."""
