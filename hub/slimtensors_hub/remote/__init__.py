"""Files elsewhere, read by range: `hf://owner/name[@revision]/file`, `https://...`, `s3://bucket/key`.

What `slimtensors.container.remote` asks for; users give these names to `slimtensors.safe_open` and its kin.

A name is parsed by `names`, opened over HTTP by `web` or over S3 by `s3`, read by `spans` and kept by `source`.
"""

from __future__ import annotations

from slimtensors.container.source import FileSource, NamedSource
from slimtensors.errors import UsageError
from slimtensors_hub.remote.names import HubName, hub_name, is_file
from slimtensors_hub.remote.source import RemoteSource
from slimtensors_hub.remote.spans import Span
from slimtensors_hub.variables import check_variables

__all__ = ["list_remote", "open_remote"]


class CachedSource(FileSource):
    """A file of a repository that is in huggingface_hub's cache already."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path)
        self.label = self.name = name


def open_remote(name: str) -> NamedSource:
    """Open a file by one request, two where the hub redirects, which bring its front. Raises RemoteError."""
    if name.startswith("s3://"):
        from slimtensors_hub.remote.s3 import StoredObject

        stored = StoredObject(name)
        return RemoteSource(stored, name, stored.size, Span(stored, 0, None).whole())
    check_variables()
    from slimtensors_hub.remote.repositories import cached
    from slimtensors_hub.remote.web import WebFile, address_of, endpoint

    hub = hub_name(name, endpoint())
    if hub is not None and not is_file(hub.path):
        _one_of(hub)
    path = None if hub is None else cached(hub)
    if path is not None:
        return CachedSource(path, str(hub))
    file = WebFile(name if hub is None else address_of(hub), hub)
    front = Span(file, 0, None).whole()
    assert file.size is not None
    if hub is not None and not hub.pinned and file.hub is not None:
        path = cached(file.hub)  # now that the commit is known
        if path is not None:
            return CachedSource(path, str(file.hub))
    return RemoteSource(file, file.name, file.size, front)


def list_remote(name: str, *, inner: bool) -> dict[str, str] | None:
    """As `slimtensors.container.remote.list_remote`."""
    if name.startswith("s3://"):
        from slimtensors_hub.remote.s3 import list_objects

        return None if is_file(name) else list_objects(name, inner=inner)
    check_variables()
    from slimtensors_hub.remote.repositories import list_repository
    from slimtensors_hub.remote.web import endpoint

    hub = hub_name(name, endpoint())
    return None if hub is None or is_file(hub.path) else list_repository(hub, inner=inner)


def _one_of(hub: HubName) -> None:
    raise UsageError(
        f"{hub} is not a file's name: name one that ends in .slimtensors or .safetensors, such as "
        f"{hub._replace(path=(hub.path + '/' if hub.path else '') + 'model.slimtensors')}"
    )
