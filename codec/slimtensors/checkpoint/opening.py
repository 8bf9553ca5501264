"""A file of a checkpoint, and what it is made from."""

from __future__ import annotations

from slimtensors.bases.resolving import open_with
from slimtensors.checkpoint.manifest import Manifest, file_name
from slimtensors.checkpoint.places import StorePlace
from slimtensors.container.reader import Verify
from slimtensors.errors import BaseError, FormatError
from slimtensors.reading.tensors import TensorFile

__all__ = ["open_rank"]


def open_rank(place: StorePlace, manifest: Manifest, number: int, *, verify: Verify = "full") -> TensorFile:
    """File `number` of a checkpoint, with its bases. Raises FormatError unless it is the one that was committed."""
    expected = manifest.files[number]
    above = place.parent()
    bases = []
    for name, run in manifest.bases:
        assert above is not None
        base = above.child(name)
        if file_name(number, run) not in base.sizes():
            raise BaseError(
                f"{place.label} is stored as differences from {base.label}, whose {file_name(number, run)} is not "
                "there: put it back, or load an older checkpoint"
            )
        bases.append(base.source(file_name(number, run)))
    label = f"{place.label}/{expected.name}"
    try:
        file = open_with(place.source(expected.name), bases, verify=verify)
    except FileNotFoundError:
        raise FormatError(f"{label}, which the manifest names, is not there: restore it, or load another one") from None
    found = file.reader.file_id.hex()
    if found != expected.file_id or file.reader.prefix.file_length != expected.size:
        file.close()
        raise FormatError(
            f"{label} is another file than the one committed: {file.reader.prefix.file_length} bytes, id {found}; the "
            f"manifest says {expected.size} bytes, id {expected.file_id}"
        )
    return file
