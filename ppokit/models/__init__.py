"""The base model and its roles: loading, LoRA, quantization, merged weights."""
