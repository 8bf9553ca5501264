"""What the tests of saving, limits and the operating system share: processes of their own, and calls that fail."""
