"""Objects of a bucket, read by range from an S3 server on this machine: bench/requirements-s3.txt."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from api.made import weights

moto = pytest.importorskip("moto.server", reason="bench/requirements-s3.txt is not installed")
s3fs = pytest.importorskip("s3fs")

from safetensors.numpy import save as save_plain  # noqa: E402

import slimtensors  # noqa: E402 # what is above may skip the file
from slimtensors.container.remote import list_remote  # noqa: E402
from slimtensors.errors import RemoteError  # noqa: E402
from slimtensors.numpy import load_file, save, stream_tensors  # noqa: E402
from slimtensors_hub.remote import spans  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of botocore and its kin


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    return {f"layer{i}.weight": weights(rng, 1000, 1024) for i in range(2)}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """A file system and an empty bucket, found as users' are: by variables."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setattr(spans, "FIRST_WAIT", 0.01)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    name = f"b{uuid.uuid4().hex}"  # the server's buckets are those of the process
    fs.mkdir(name)
    yield fs, name
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_like_files(bucket: tuple[Any, str], arrays: dict[str, np.ndarray]) -> None:
    fs, root = bucket
    fs.pipe_file(f"{root}/tiny/model.slimtensors", save(arrays))
    fs.pipe_file(f"{root}/tiny/config.json", b"{}")
    name = f"s3://{root}/tiny/model.slimtensors"
    for found in (load_file(name), dict(stream_tensors(f"s3://{root}/tiny"))):
        assert {key: array.tobytes() for key, array in found.items()} == {k: a.tobytes() for k, a in arrays.items()}
    with slimtensors.safe_open(name) as file:
        assert (file.get_slice("layer1.weight")[500:501] == arrays["layer1.weight"][500:501]).all()
    assert slimtensors.inspect(name).label == name


def test_folders(bucket: tuple[Any, str], arrays: dict[str, np.ndarray]) -> None:
    fs, root = bucket
    for path in ("inner/unet/model.slimtensors", "inner/model.slimtensors", "innermost/model.slimtensors"):
        fs.pipe_file(f"{root}/{path}", b"")
    start = f"s3://{root}/inner"
    right = {"model.slimtensors": f"{start}/model.slimtensors"}
    assert {path: name for path, name in list_remote(start).items() if name.endswith("s")} == right
    assert list_remote(f"{start}/", inner=True) == right | {"unet/model.slimtensors": f"{start}/unet/model.slimtensors"}
    plain = save_plain(arrays)
    fs.pipe_file(f"{root}/base/unet/model.safetensors", plain)
    assert load_file(save(arrays, base=f"s3://{root}/base"), base=plain).keys() == arrays.keys()
    assert slimtensors.estimate(f"s3://{root}/base").source_bytes == len(plain)


def test_a_changed_object(bucket: tuple[Any, str], arrays: dict[str, np.ndarray]) -> None:
    fs, root = bucket
    fs.pipe_file(f"{root}/model.slimtensors", save(arrays))
    with slimtensors.safe_open(f"s3://{root}/model.slimtensors") as file:
        fs.pipe_file(f"{root}/model.slimtensors", save({name: -array for name, array in arrays.items()}))
        with pytest.raises(RemoteError, match=r"was changed while it was read .*: open it again"):
            file.get_tensor("layer1.weight")


def test_what_is_not_there(bucket: tuple[Any, str]) -> None:
    for name in (f"s3://{bucket[1]}/none.slimtensors", "s3://none/none.slimtensors"):
        with pytest.raises(RemoteError, match=r"none\.slimtensors: there is no such object: check the name"):
            load_file(name)
    with pytest.raises((RemoteError, slimtensors.NotSlimtensorsError), match=r"s3://none"):
        dict(stream_tensors("s3://none"))
