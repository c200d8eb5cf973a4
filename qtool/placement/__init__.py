"""Which nodes run in int8: regions, their costs, the minimum cuts that choose among them, and the race."""
