"""Rows of whole documents: the plan that places them (plan.py), its order (packed_order.py) and its rows (packed_rows.py)."""
