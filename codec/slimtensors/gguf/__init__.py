"""GGUF: what its files hold, what its block types are made of, and the numbers that they stand for."""
