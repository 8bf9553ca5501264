"""What goes wrong with a hub, in one line that names the repository and the next step. No line holds a token."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from slimtensors.errors import RemoteError
from slimtensors_hub.remote.names import shown

__all__ = ["HubError", "retried", "told"]

T = TypeVar("T")
TRIES = 3
PAUSE = 1.0  # seconds before the second try, twice that before the third


class HubError(RemoteError):
    """A repository, a revision or a file cannot be read or written: not there, not allowed, not reachable, not whole.

    `passing`: whether the same call may succeed a little later.
    """

    def __init__(self, words: str, *, passing: bool = False) -> None:
        super().__init__(re.sub(r"hf_[A-Za-z0-9]{6,}", "hf_***", words))
        self.passing = passing


@contextmanager
def told(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Errors of huggingface_hub and of its HTTP client become a HubError."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        cause = error
        while isinstance(cause, RuntimeError) and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__  # it wraps what happens in its threads
        words, passing = _words(cause, repo_id, revision)
        if words is None:
            raise
        raise HubError(words, passing=passing) from error


def retried(call: Callable[[], T], repo_id: str, revision: str | None = None, tries: int = TRIES) -> T:
    """What only reads is tried again where that may help, `tries` times in all. Raises HubError."""
    for tried in range(1, tries):
        try:
            with told(repo_id, revision):
                return call()
        except HubError as error:
            if not error.passing:
                raise
        time.sleep(PAUSE * tried)
    with told(repo_id, revision):
        return call()


def _words(error: Exception, repo_id: str, revision: str | None) -> tuple[str | None, bool]:
    """(what to say; None where the error says it itself, whether it may pass)."""
    from huggingface_hub import constants, errors

    name = repo_id if revision is None else f"{repo_id} at {revision}"
    # Whatever HTTP client huggingface_hub uses, its errors have one base, which HfHubHTTPError shares.
    transport = tuple(
        each for each in errors.HfHubHTTPError.__mro__
        if each.__module__.partition(".")[0] not in ("builtins", "huggingface_hub")
    )  # fmt: skip
    endpoint = shown(constants.ENDPOINT)  # without a password
    login = "log in with `hf auth login`, or set HF_TOKEN"
    match error:
        case errors.HFValidationError():
            return f"{repo_id!r} is no repository of a hub: name one as OWNER/NAME", False
        case errors.GatedRepoError():
            page = f"{endpoint}/{repo_id}"
            return f"{repo_id} is gated, and your account has no access yet: ask for it at {page}, then {login}", False
        case errors.RevisionNotFoundError():
            return f"{repo_id} has no revision {revision}: it was moved or deleted; name another one", False
        case errors.RepositoryNotFoundError():
            return f"{repo_id} is not there, or private and not yours to read: check the name, or {login}", False
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return f"{name} is not whole in the cache, and HF_HUB_OFFLINE is set: unset it to download", False
        case errors.LocalEntryNotFoundError():
            return f"{name} is not in the cache, and {endpoint} could not be asked: try again later", True
        case errors.EntryNotFoundError():
            return f"{name} lacks a file that it listed or that was asked for: check the name and the revision", False
        case errors.LocalTokenNotFoundError():
            return f"{repo_id} needs a token: {login}", False
        case errors.HfHubHTTPError():
            return _status(error, name, login)
        case _ if isinstance(error, transport) and getattr(error, "response", None) is not None:
            return _status(error, name, login)
        case _ if isinstance(error, transport):
            kind = type(error).__name__
            return f"{name}: no connection to {endpoint} ({kind}); try again, or set HF_HUB_OFFLINE=1", True
        case errors.FileMetadataError():
            return f"{name}: {endpoint} does not answer as a hub does; check HF_ENDPOINT", False
        case UnicodeEncodeError():
            return f"{name}: your token holds characters that no token has: {login}", False
        case OSError() if "Consistency check failed" in str(error):
            return f"{name}: a file came with another size than the hub states; try again", True
    return None, False


def _status(error: Exception, name: str, login: str) -> tuple[str, bool]:
    from huggingface_hub import constants

    endpoint = shown(constants.ENDPOINT)
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return f"{name}: your token was refused; it may be revoked or expired: {login}", False
    if status == 403:
        return f"{name}: your token may not do this; use one that may write there, or open a pull request", False
    if status in (409, 412):
        return f"{name}: somebody else committed meanwhile; run it again (what is uploaded is not sent again)", False
    if status is not None and (status >= 500 or status == 429):
        return f"{name}: {endpoint} answers {status}; try again later", True
    return f"{name}: {endpoint} answers {status}", False
