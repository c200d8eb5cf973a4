"""Judging: the quantized file against FP32, on samples that set no range."""
