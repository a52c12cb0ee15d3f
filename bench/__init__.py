"""Measurements against other frameworks, outside the street: they may import what they like, and nothing imports them."""
