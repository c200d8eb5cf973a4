"""Scores of a model's task against the truth: one class a metric of tables/task_metrics.py."""
