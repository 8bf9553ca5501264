"""What a server's refusal means, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from slimtensors_hub.remote.names import HubName

__all__ = ["LOGIN", "explained"]

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_ERRORS = {  # by the hub's X-Error-Code
    "GatedRepo": f"access to the repository has to be asked for on its page; then {LOGIN}",
    "RepoNotFound": f"there is no such repository, or it is private: check the name, and {LOGIN}",
    "RevisionNotFound": "the repository has no such revision: check what follows the @",
    "EntryNotFound": "the repository has no such file at this revision: check the path",
}


def explained(status: int, headers: Mapping[str, str], hub: HubName | None) -> str:
    """A refusal in a line."""
    if hub is not None and "invalid" in headers.get("x-error-message", "").lower() and status in (401, 403):
        return f"the token is not valid, or not any more ({status}): {LOGIN}"
    if hub is not None and hub.kind == "dataset" and headers.get("x-error-code", "") == "RepoNotFound":
        return (
            f"there is no dataset {hub.repository}, or it is private ({status}): check the name (the one of a model is "
            f"without datasets/), and {LOGIN}"
        )
    known = _ERRORS.get(headers.get("x-error-code", "")) if hub is not None else None
    if known is not None:
        return f"{known} ({status})"
    if status == 401:
        return f"the server wants to know who asks (401): {LOGIN if hub else 'it takes no login from here'}"
    if status == 403:
        return f"access is refused (403): {'check what your token may read' if hub else 'ask whoever runs the server'}"
    if status in (404, 410):
        return f"there is no such file ({status}): check the name"
    return f"the server answered {status}"
