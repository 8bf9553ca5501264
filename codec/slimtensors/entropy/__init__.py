"""Models: how often each symbol occurs, and how a table of that is stored. Plain NumPy and integers."""
