"""What a run costs as it grows: more sources, records, ranks, files and nodes, each on its own."""
