"""Everything this library raises on purpose, by whose fault it is, and what it warns of."""

__all__ = [
    "BaseError",
    "ChecksumError",
    "DecodedOnCpuWarning",
    "FormatError",
    "KernelCacheWarning",
    "LimitError",
    "NewerFormatError",
    "NotSlimtensorsError",
    "RemoteError",
    "SelfCheckError",
    "SlimtensorsError",
    "TensorNotFoundError",
    "TruncatedError",
    "UsageError",
]


class SlimtensorsError(Exception):
    """Base of all errors of this library."""


class UsageError(SlimtensorsError, ValueError):
    """The call is wrong: an argument, an option, a combination."""


class TensorNotFoundError(UsageError, KeyError):
    """The file has no tensor of that name."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class FormatError(SlimtensorsError):
    """The file is wrong: damaged, cut off, or made by a faulty or hostile writer."""


class NotSlimtensorsError(FormatError):
    """The file is something else; the message says what, and what to do with it."""


class TruncatedError(FormatError):
    """The file is shorter or longer than it says it is."""


class ChecksumError(FormatError):
    """Bytes do not have the digest that the file gives for them."""


class LimitError(FormatError):
    """The file asks for more than this reader allows."""


class NewerFormatError(FormatError):
    """The file needs a newer reader."""


class BaseError(FormatError):
    """What a file holds is a difference from a base that is missing, changed, another one, or itself."""


class RemoteError(SlimtensorsError, OSError):
    """A server refused, could not be reached, or has another file now than a moment ago."""


class SelfCheckError(SlimtensorsError):
    """What was written did not decode to what was given: a fault of this library or of this machine.

    The destination has not been touched.
    """


class DecodedOnCpuWarning(RuntimeWarning):
    """What is for a GPU is decoded on the CPU and copied: part of a file that no kernel is for, or all, where kernels
    cannot be used.
    """


class KernelCacheWarning(RuntimeWarning):
    """Compiled kernels cannot be kept on disk; each process compiles its own."""


def check_callable(what: str, **given: object) -> None:
    """Raises UsageError for what is not None and cannot be called. what: what it would be called with."""
    for name, value in given.items():
        if value is not None and not callable(value):
            raise UsageError(f"{name} is {value!r:.60}; a function is needed, which is called with {what}")


def note(error: BaseException, text: str) -> None:
    """Say more about an error that stays what it is. Shown by Python 3.11 and later."""
    if hasattr(error, "add_note"):
        error.add_note(text)
