"""huggingface_hub's variables of the environment that it does not look at itself before it stumbles over them."""

from __future__ import annotations

import os
import re

from slimtensors.errors import UsageError
from slimtensors_hub.remote.names import origin

__all__ = ["check_variables"]

ENDPOINT, TIMEOUTS = "HF_ENDPOINT", ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
MOST_SECONDS = 10**9


def check_variables() -> None:
    """To be called before huggingface_hub is imported, which reads them then. Raises UsageError."""
    for name in TIMEOUTS:
        text = os.environ.get(name, "0")
        try:
            sound = 0 <= int(text) <= MOST_SECONDS
        except ValueError:
            sound = False
        if not sound:
            raise UsageError(f"{name} is {text!r}; it can be a whole number of seconds")
    address = os.environ.get(ENDPOINT)
    if address is None:
        return
    try:
        scheme, host, _ = origin(address)
    except UsageError as error:
        raise UsageError(f"{ENDPOINT}: {error}") from None
    if scheme not in ("https", "http") or not host:
        said = re.sub("//[^/]*@", "//", address)  # without a password
        raise UsageError(f"{ENDPOINT} is {said!r}; it can be an address such as https://huggingface.co")
