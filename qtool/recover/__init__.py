"""Recovery: techniques that lower the error of a quantized model, one in each file."""
