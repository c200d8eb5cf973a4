"""Fine-tuning of a quantized model against its own FP32 outputs. Only this folder imports torch."""
