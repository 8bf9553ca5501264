"""Checkpoints in S3, by s3fs and a server on this machine: bench/requirements-s3.txt."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from faults import processes
from slimtensors.checkpoint import remote
from slimtensors.checkpoint.manifest import file_name
from slimtensors.torch.distributed import StorageReader, StorageWriter

moto = pytest.importorskip("moto.server", reason="bench/requirements-s3.txt is not installed")
s3fs = pytest.importorskip("s3fs")

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(aio)?botocore.*"),
]

MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    """fsspec's options for an S3 server in a process of this test's own."""
    script = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        client = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "eu-west-1"}
        yield {"key": "k", "secret": "s", "client_kwargs": client, "skip_instance_cache": True}
        process.kill()


@pytest.fixture
def root(server: dict[str, Any]) -> str:
    bucket = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem(**server).mkdir(bucket)
    return f"s3://{bucket}/run"


def state(seed: int, mib: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(mib, MIB // 4, generator=generator), "step": seed}


def save(path: str, made: dict[str, Any], server: dict[str, Any], **options: Any) -> None:
    dcp.save(made, storage_writer=StorageWriter(path, storage_options=server, **options))


def load(path: str, server: dict[str, Any], mib: int) -> dict[str, Any]:
    found = {"w": torch.zeros(mib, MIB // 4), "step": None}
    dcp.load(found, storage_reader=StorageReader(path, storage_options=server))
    return found


def uploads(fs: Any, root: str) -> list[str]:
    found = fs.call_s3("list_multipart_uploads", Bucket=root.split("/")[2])
    return [each["Key"] for each in found.get("Uploads", [])]


def test_parts_and_retention(server: dict[str, Any], root: str) -> None:
    for seed in (1, 2, 3):
        save(f"{root}/step-{seed}", state(seed, 30), server, keep=2)
    fs = s3fs.S3FileSystem(**server)
    assert sorted(fs.ls(root, refresh=True))[-2:] == [f"{root[5:]}/step-2", f"{root[5:]}/step-3"]
    assert not uploads(fs, root)
    (file,) = fs.glob(f"{root}/step-3/rank-*")
    assert "-" in fs.info(file)["ETag"], "sent in parts"
    found = load(root, server, 30)
    assert torch.equal(found["w"], state(3, 30)["w"])
    assert found["step"] == 3


def test_an_upload_that_fails_is_aborted(server: dict[str, Any], root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(f"{root}/a", state(1, 3), server)
    putting, count = remote.MultipartOutput._put, []

    def fail(self: Any, number: int, data: bytes) -> str:
        count.append(number)
        if len(count) == 3:
            raise OSError(5, "the network is gone")
        return putting(self, number, data)

    monkeypatch.setattr(remote.MultipartOutput, "_put", fail)
    with pytest.raises(CheckpointException, match="the network is gone"):
        save(f"{root}/b", state(2, 60), server)
    assert not uploads(s3fs.S3FileSystem(**server), root)
    assert load(root, server, 3)["step"] == 1


DIE = """
import json, os, signal, sys, warnings
warnings.simplefilter("ignore")
import torch.distributed.checkpoint as dcp
from slimtensors.checkpoint import remote
from slimtensors.checkpoint.manifest import file_name
from slimtensors.torch.distributed import StorageWriter
from distributed.test_s3 import state

root, server = sys.argv[1], json.loads(sys.argv[2])
putting, count = remote.MultipartOutput._put, []
def die(self, number, data):
    count.append(number)
    if number == 1:  # the front, which is sent last
        os.kill(os.getpid(), signal.SIGKILL)
    return putting(self, number, data)
remote.MultipartOutput._put = die
dcp.save(state(2, 30), storage_writer=StorageWriter(root, storage_options=server))
"""


def test_an_upload_whose_process_was_killed(server: dict[str, Any], root: str) -> None:
    """Nothing of it is seen, and the next save to the same place ends it."""
    save(f"{root}/a", state(1, 3), server)
    process = processes.start(DIE, f"{root}/b", json.dumps(server))
    with process:
        process.wait(120)
    assert process.returncode == -signal.SIGKILL
    fs = s3fs.S3FileSystem(**server)
    assert len(uploads(fs, root)) == 1
    assert not fs.exists(f"{root}/b")
    assert load(root, server, 3)["step"] == 1
    save(f"{root}/b", state(2, 3), server)
    assert not uploads(fs, root)
    assert load(root, server, 3)["step"] == 2


class Paged(s3fs.S3FileSystem):  # type: ignore[misc] # has no types
    """Of an S3 that lists two uploads at once, where others list a thousand."""

    def call_s3(self, method: str, **given: Any) -> Any:
        found = super().call_s3(method, **given)
        if method == "list_multipart_uploads":
            after = given.get("KeyMarker", ""), given.get("UploadIdMarker", "")
            every = sorted(found.get("Uploads", []), key=lambda each: (each["Key"], each["UploadId"]))
            left = [each for each in every if (each["Key"], each["UploadId"]) > after]
            found |= {"Uploads": left[:2], "IsTruncated": len(left) > 2}
            if len(left) > 2:
                found |= {"NextKeyMarker": left[1]["Key"], "NextUploadIdMarker": left[1]["UploadId"]}
        return found


def test_more_uploads_than_a_page_lists(server: dict[str, Any], root: str) -> None:
    fs = Paged(**server)
    place = remote.RemotePlace(fs, f"{root[5:]}/a")
    bucket, ours, other = root.split("/")[2], 32 * "a", 32 * "7"
    names = [file_name(rank, run) for rank in range(3) for run in (ours, other)] + ["something else"]
    for name in [*names, names[1]]:  # of one file twice
        fs.call_s3("create_multipart_upload", Bucket=bucket, Key=f"run/a/{name}")
    place.abandon(ours)
    left = s3fs.S3FileSystem(**server).call_s3("list_multipart_uploads", Bucket=bucket)["Uploads"]
    assert sorted(each["Key"][len("run/a/") :] for each in left) == sorted([*names[0:6:2], "something else"])
