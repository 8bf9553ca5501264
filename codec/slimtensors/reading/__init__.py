"""From an open file to tensors: what to read, decoding, slices, walks through all of it."""
