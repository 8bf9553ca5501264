"""What a kernel returns. Kernels never raise: the caller turns a status into an error with its context."""

__all__ = ["BAD_ARGUMENT", "BAD_STREAM", "OK", "must"]

OK = 0
BAD_ARGUMENT = 1  # lengths or parameters disagree; nothing useful was written
BAD_STREAM = 2  # the content cannot be right; the output is filled with noise


def must(status: int) -> None:
    """For kernels that cannot fail on what this package hands them. A call in an `assert` would be left out by -O."""
    if status != OK:
        raise AssertionError(f"a kernel returned {status}")
