"""Which nodes run in int8: regions, their costs, and the minimum cuts that choose among them."""
