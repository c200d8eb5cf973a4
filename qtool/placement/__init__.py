"""Which nodes run in int8: measured, solved as a minimum cut, and raced."""
