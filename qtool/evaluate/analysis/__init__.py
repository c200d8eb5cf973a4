"""The error of a quantized model by tensor, by region, and along the graph."""
