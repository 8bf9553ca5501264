"""Benchmarks of slimtensors against its peers; `python -m bench.run` from the repository's root."""
