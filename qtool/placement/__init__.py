"""Placement: regions, their costs, minimum cuts that choose regions for int8, and a race of candidates."""
