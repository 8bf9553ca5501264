"""From units to the bytes of a chunk and back: checks, allocates, calls kernels, raises. Knows nothing of files."""
