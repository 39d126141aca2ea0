"""A jail around worker processes, the workers, and the pools that drive them."""
