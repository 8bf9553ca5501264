"""What becomes of each tensor, before a byte is written."""
