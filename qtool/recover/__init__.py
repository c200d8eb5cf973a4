"""Accuracy that rounding to nearest leaves on the table: a technique a file, from a plan to a better one."""
