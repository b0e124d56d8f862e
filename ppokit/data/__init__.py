"""Tables, prompts and token batches."""
