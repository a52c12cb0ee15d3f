"""Status room: how a run is doing, from its folder."""
