"""Compressed models on hubs: push, pull, and read by range, with huggingface_hub.

Importing this package loads neither huggingface_hub nor torch; what a name needs is imported when it is first used.
"""

from __future__ import annotations

__all__: list[str] = []
