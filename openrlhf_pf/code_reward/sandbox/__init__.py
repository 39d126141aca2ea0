"""The walls: a jail around worker processes, the workers, and the pool that drives them."""
