"""The version of the library; the version of the format is in container/layout.py."""

__version__ = "0.1.0"
