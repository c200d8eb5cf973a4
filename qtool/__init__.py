"""Quantize ONNX models after training, and prove that the result still works."""
__version__ = "0.1.0"
