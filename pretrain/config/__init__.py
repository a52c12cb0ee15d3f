"""Config room: what a run is. Leftmost on the street; imports nothing of the other rooms."""
