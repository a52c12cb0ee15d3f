"""A run rehearsed: the real step of any rank of any layout, in one process of a CPU, on tensors that have a shape and no values."""
