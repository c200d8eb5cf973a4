"""Float models that compute what quantized ones do, with every value at hand."""
