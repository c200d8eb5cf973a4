"""Read a plan back from a quantized model, of qtool or of another tool."""
