"""Evaluation: candidates against FP32 on the select set, the written file on the judge set."""
