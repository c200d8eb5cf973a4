"""Deciding: which tensor is quantized, how, and why the rest is not. Nothing here edits a graph."""
