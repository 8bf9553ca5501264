"""A plan carried out: a file complete and checked before it takes its place."""
