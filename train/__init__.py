"""Chat files become a LoRA adapter folder that the server accepts. Knows nothing of retrieval, serving or scores."""
