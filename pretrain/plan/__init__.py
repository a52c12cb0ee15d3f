"""What a run will cost, from its config and figures of a machine: memory, time of a step, the layouts to choose from. No torch."""
