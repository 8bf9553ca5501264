"""The file: prefix, header, index, table, chunks. Knows nothing of codecs."""
