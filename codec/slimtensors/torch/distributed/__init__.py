"""Checkpoints of torch.distributed.checkpoint (DCP), compressed, and committed as a whole or not at all.

    import torch.distributed.checkpoint as dcp
    from slimtensors.torch.distributed import StorageReader, StorageWriter

    dcp.save(state, storage_writer=StorageWriter("run/step-100", keep=3))
    dcp.load(state, storage_reader=StorageReader("run"))        # the latest; on any number of ranks

`dcp.async_save` takes the writer too. What is no tensor is stored as JSON, never as a pickle (`values`). Developed and
tested with torch 2.13; it uses only what torch documents of DCP since 2.4.
"""

from slimtensors.checkpoint.commit import RetentionWarning
from slimtensors.torch.distributed.convert import convert_checkpoint
from slimtensors.torch.distributed.planning import SavePlanner
from slimtensors.torch.distributed.ranks import RanksMissingError
from slimtensors.torch.distributed.reader import StorageReader, latest_checkpoint
from slimtensors.torch.distributed.removing import remove_checkpoint
from slimtensors.torch.distributed.writer import StorageWriter

__all__ = [
    "RanksMissingError",
    "RetentionWarning",
    "SavePlanner",
    "StorageReader",
    "StorageWriter",
    "convert_checkpoint",
    "latest_checkpoint",
    "remove_checkpoint",
]


def __dir__() -> list[str]:
    return sorted(__all__)
