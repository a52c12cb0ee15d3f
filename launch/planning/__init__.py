"""``fanal plan``: what a run will cost on the nodes of a site, or on a number of GPUs."""
