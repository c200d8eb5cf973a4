"""JSON files: one codec for plans, ranges, cost tables, checkpoints and reports."""
