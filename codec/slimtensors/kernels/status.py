"""What a kernel returns. Kernels never raise: the caller turns a status into an error with its context."""

OK = 0
BAD_ARGUMENT = 1  # lengths or parameters disagree; nothing useful was written
BAD_STREAM = 2  # the content cannot be right; the output is filled with noise
