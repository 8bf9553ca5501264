"""Files on a web server, read by range: what is asked, and what happens when servers and networks misbehave."""

from __future__ import annotations

import io
import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import slimtensors
from api.made import weights
from cli import processes
from hub.web import Odd, Web, serving
from slimtensors.cli.targets import settle
from slimtensors.container.source import RangedSource
from slimtensors.errors import ChecksumError, RemoteError, TensorNotFoundError, TruncatedError, UsageError
from slimtensors.files.folders import DECOMPRESS, REWRITE, SALVAGE
from slimtensors.numpy import load_file, save, save_file, stream_tensors
from slimtensors.reading.tensors import open_file
from slimtensors.stream import ordered
from slimtensors_hub.remote import names, spans
from slimtensors_hub.remote import web as web_files


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    made = {f"layer{i}.weight": weights(rng, 1500, 1024).astype(ml_dtypes.bfloat16) for i in range(3)}
    return made | {f"layer{i}.bias": weights(rng, 384, 1)[:, 0] for i in range(3)}


@pytest.fixture(scope="module")
def packed(arrays: dict[str, np.ndarray]) -> bytes:
    return save(arrays)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(spans, "FIRST_WAIT", 0.01)
    with serving() as server:
        yield server


@pytest.fixture
def address(web: Web, packed: bytes) -> str:
    return web.put("model.slimtensors", packed)


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()


def test_like_files(address: str, arrays: dict[str, np.ndarray], packed: bytes) -> None:
    same(load_file(address), arrays)
    same(load_file(address, threads=1), arrays)
    same(dict(stream_tensors([address])), arrays)
    with slimtensors.safe_open(address) as file:
        assert file.keys() == sorted(arrays)
        assert (file.get_slice("layer1.weight")[700:710, 5] == arrays["layer1.weight"][700:710, 5]).all()
    assert slimtensors.verify(address) == slimtensors.verify(packed)
    report, local = slimtensors.inspect(address), slimtensors.inspect(packed)
    assert [(t.name, t.stored_bytes) for t in report.tensors] == [(t.name, t.stored_bytes) for t in local.tensors]
    assert report.label == address
    output = io.BytesIO()
    slimtensors.decompress(address, output)
    reference = io.BytesIO()
    slimtensors.decompress(packed, reference)
    assert output.getvalue() == reference.getvalue()


def test_exact_ranges(web: Web, address: str, packed: bytes) -> None:
    """A header is one request, a row two; a whole file every byte once, in few requests."""
    slimtensors.inspect(address)
    assert [each.range for each in web.take()] == [(0, spans.FRONT_BYTES)]
    with slimtensors.safe_open(address) as file:
        file.get_slice("layer2.weight")[1400:1401]
    _, row = web.take()
    assert row.range is not None
    assert 0 < row.range[1] - row.range[0] < 1 << 20
    for load in (load_file, lambda name: dict(stream_tensors(name))):
        load(address)
        assert web.sent == len(packed)
        ranges = sorted(each.range for each in web.take() if each.range is not None)
        assert [low for low, _ in ranges] == [0, *(high for _, high in ranges[:-1])]
        assert len(ranges) <= 3 + len(packed) // (1 << 20)


def test_a_layer_is_one_range(web: Web, address: str, packed: bytes) -> None:
    with slimtensors.safe_open(address) as file:
        web.take()
        file.get_tensor("layer1.weight")
        stored = slimtensors.inspect(packed).tensors[1].stored_bytes
        assert web.sent <= stored
        with file.prefetch({"layer1.weight": slice(0, 600)}) as loader:
            loader.take("layer1.weight")
        assert web.sent <= 1.7 * stored  # two chunks of three


def test_a_long_table(web: Web) -> None:
    """Many tensors: what the first range does not hold comes with the second, before the first tensor."""
    rng = np.random.default_rng(0)
    made = {f"{'block.' * 60}{i}": weights(rng, 64, 260) for i in range(250)}
    address, last = web.put("many.slimtensors", save(made, self_check=False)), "block." * 60 + "249"
    with slimtensors.safe_open(address) as file:
        assert (file.get_tensor(last) == made[last]).all()
    ranges = [each.range for each in web.take()]
    assert len(ranges) == 3, ranges


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("skip", [0, 2])
def test_tried_again(web: Web, address: str, arrays: dict[str, np.ndarray], status: int, skip: int) -> None:
    web.odd = [Odd(skip=skip, times=3, status=status, body=b"busy")]
    same(load_file(address), arrays)
    assert web.odd[0].times == 0


def test_given_up(web: Web, address: str) -> None:
    web.odd = [Odd(times=99, status=503)]
    with pytest.raises(RemoteError, match=r"model.slimtensors: 127.0.0.1 answered 503, 5 times in a row; try again"):
        load_file(address)
    assert len(web.take()) == spans.TRIES


def test_a_client_that_is_closed(web: Web, address: str, arrays: dict[str, np.ndarray]) -> None:
    """As huggingface_hub does with it where another connection failed."""
    from huggingface_hub import close_session

    with slimtensors.safe_open(address) as file:
        web.odd = [Odd(then=close_session)]
        assert (file.get_tensor("layer1.weight") == arrays["layer1.weight"]).all()
        close_session()
        assert (file.get_tensor("layer2.weight") == arrays["layer2.weight"]).all()


def test_at_once_where_another_try_cannot_help(web: Web, address: str) -> None:
    for wrong, words in {
        "https:///x.slimtensors": r"https:///x.slimtensors: .*; check the name",
        address.replace("http:", "https:"): r"model.slimtensors: 127.0.0.1 answers in the open; check the name",
    }.items():
        with pytest.raises(RemoteError, match=words):
            load_file(wrong)
    assert not web.take()


def test_nobody_there(web: Web) -> None:
    address = web.put("x.slimtensors", b"").replace(web.address, "http://127.0.0.1:1")
    with pytest.raises(RemoteError, match=r"no answer from 127.0.0.1 .*, 5 times in a row; try again later"):
        load_file(address)


@pytest.mark.parametrize("skip", [0, 1, 3])
def test_dropped_connections_are_resumed(
    web: Web, address: str, arrays: dict[str, np.ndarray], packed: bytes, skip: int
) -> None:
    """Nothing that came is asked for twice."""
    web.odd = [Odd(skip=skip, drop_after=20_001), Odd(drop_after=7)]
    same(load_file(address), arrays)
    assert all(odd.times == 0 for odd in web.odd)
    assert web.sent == len(packed)


def test_dropped_again_and_again(web: Web, address: str) -> None:
    web.odd = [Odd(skip=1, times=99, drop_after=0)]
    with pytest.raises(RemoteError, match=r"(broke off|ended too early).*, 5 times in a row"):
        load_file(address)


def test_wrong_bytes_of_the_right_size(web: Web, address: str, arrays: dict[str, np.ndarray], packed: bytes) -> None:
    web.odd = [Odd(times=99, flip=len(packed) // 2)]
    words = r"tensor 'layer1.weight', chunk \d: its \d+ bytes at offset \d+ do not have"
    with pytest.raises(ChecksumError, match=words):
        load_file(address)
    with slimtensors.safe_open(address) as file:
        assert (file.get_tensor("layer0.weight") == arrays["layer0.weight"]).all()


def test_a_changed_file(web: Web, address: str, arrays: dict[str, np.ndarray]) -> None:
    other = save({name: -array for name, array in arrays.items()})
    with slimtensors.safe_open(address) as file:
        web.put("model.slimtensors", other)
        with pytest.raises(RemoteError, match=r"was changed while it was read \(its ETag was .*\): open it again"):
            file.get_tensor("layer0.weight")


def test_a_changed_file_that_the_server_keeps_quiet_about(web: Web, address: str, packed: bytes) -> None:
    with slimtensors.safe_open(address) as file:
        web.put("model.slimtensors", packed + bytes(64), tag=web.tags["model.slimtensors"])
        with pytest.raises(RemoteError, match=rf"it had {len(packed)} bytes and has {len(packed) + 64} now"):
            file.get_tensor("layer0.weight")
    web.put("model.slimtensors", packed)
    with slimtensors.safe_open(address) as file:
        web.odd = [Odd(headers={"ETag": '"else"'})]  # after If-Match was passed over
        with pytest.raises(RemoteError, match=r"its ETag was .* and is"):
            file.get_tensor("layer0.weight")
    with slimtensors.safe_open(address) as file:
        web.put("model.slimtensors", packed[:300_000], tag=web.tags["model.slimtensors"])
        with pytest.raises(RemoteError, match=r"changed while it was read"):
            file.get_tensor("layer2.weight")


def test_a_server_that_misjudges_if_match(web: Web, address: str, arrays: dict[str, np.ndarray]) -> None:
    with slimtensors.safe_open(address) as file:
        web.never_matches = True
        assert (file.get_tensor("layer2.weight") == arrays["layer2.weight"]).all()
        web.take()
        assert (file.get_tensor("layer0.weight") == arrays["layer0.weight"]).all()
        assert not any("If-Match" in each.headers for each in web.take())


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (Odd(status=401), r"model.slimtensors: the server wants to know who asks \(401\)"),
        (Odd(status=403), r"model.slimtensors: access is refused \(403\)"),
        (Odd(status=404), r"model.slimtensors: there is no such file \(404\): check the name"),
        (Odd(status=418), r"model.slimtensors: the server answered 418"),
        (Odd(ignore_range=True), "the server sends whole files only, no ranges; download the file"),
        (Odd(ignore_range=True, chunked=True), "the server sends whole files only"),
        (Odd(headers={"Content-Encoding": "gzip"}), "the server packs what it sends"),
        (Odd(headers={"Content-Range": "bytes 64-65535/9999999"}), "it sends 64 to 65536: it is faulty"),
        (Odd(headers={"Content-Range": "bytes 0-63/9999999"}), "it sends 0 to 64: it is faulty"),
        (Odd(headers={"Content-Range": "bytes 0-65536/9999999"}), "it sends 0 to 65537: it is faulty"),
        (Odd(headers={"Content-Range": "bytes 0-65535/*"}), "does not say which range it sends"),
        (Odd(headers={"Content-Range": "bytes 0--1/10"}), "does not say which range it sends"),
        (Odd(headers={"Content-Range": f"bytes 0-65535/{'9' * 5000}"}), "does not say which range it sends"),
        (Odd(headers={"Content-Range": None}), "does not say which range it sends"),
        (Odd(status=302, headers={"Location": "/model.slimtensors"}), "more than 10 redirects"),
        (Odd(status=302, headers={"Location": "http://[::1/x"}), "leads to what is not an address"),
        (Odd(status=302, headers={"Location": "http://127.0.0.1:99999/x"}), "leads to what is not an address"),
        (Odd(status=416, body=b""), r"refuses to send bytes 0 to 65536 \(416\), as if the file were empty; download"),
        (Odd(status=302, headers={"Location": "ftp://127.0.0.1/x"}), "leads to ftp://, which is not followed"),
        (Odd(status=302, headers={"Location": "file:///etc/passwd"}), "leads to file://, which is not followed"),
        (Odd(status=302, headers={"Location": "http://example.invalid/x"}), "is not encrypted; it is not followed"),
    ],
)
def test_refused(web: Web, address: str, odd: Odd, words: str) -> None:
    """In one line, at once, and without reading on."""
    odd.times = 99
    web.odd = [odd]
    with pytest.raises(RemoteError, match=words) as caught:
        load_file(address)
    assert "\n" not in str(caught.value)
    assert len(web.take()) <= 10


@pytest.mark.parametrize("most", [16384, 50_000, 1_000_000])
def test_less_at_once_than_was_asked_for(
    web: Web, address: str, arrays: dict[str, np.ndarray], packed: bytes, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server may do it: what is left is asked for, without waiting, and the file's front at most twice."""
    monkeypatch.setattr(spans, "FIRST_WAIT", 100)
    web.most = most
    same(load_file(address), arrays)
    assert len(packed) <= web.sent <= len(packed) + spans.FRONT_BYTES
    with slimtensors.safe_open(address) as file:
        assert (file.get_slice("layer1.weight")[700:710] == arrays["layer1.weight"][700:710]).all()
    web.most = 16383
    with pytest.raises(RemoteError, match="it sends 0 to 16383: it is faulty"):
        load_file(address)


def test_a_range_that_is_there_and_refused(web: Web, address: str, packed: bytes) -> None:
    with slimtensors.safe_open(address) as file:
        web.odd = [Odd(times=99, status=416, body=b"", headers={"Content-Range": f"bytes */{len(packed)}"})]
        with pytest.raises(RemoteError, match=r"the server refuses to send bytes \d+ to \d+ \(416\); download"):
            file.get_tensor("layer0.weight")


def test_headers_that_are_odd_and_harmless(web: Web, address: str, arrays: dict[str, np.ndarray]) -> None:
    web.odd = [
        Odd(status=302, headers={"Location": "/model.slimtensors?moved", "X-Linked-Size": "9" * 5000}),
        Odd(times=99, headers={"ETag": '"\xe4"'}),  # which cannot be sent back
    ]
    same(load_file(address), arrays)
    assert not any("If-Match" in each.headers for each in web.take())


def test_units_in_any_case(web: Web, address: str, packed: bytes) -> None:
    web.odd = [Odd(headers={"Content-Range": f"Bytes  0-65535/{len(packed)}"})]
    assert slimtensors.inspect(address).label == address


def test_words_for_bytes_as_they_are(web: Web, address: str, arrays: dict[str, np.ndarray]) -> None:
    for word in ("Identity", ""):
        web.odd = [Odd(times=99, headers={"Content-Encoding": word})]
        same(load_file(address), arrays)


def test_a_length_that_is_a_lie(web: Web, address: str) -> None:
    web.odd = [Odd(headers={"Content-Range": f"bytes 0-65535/{1 << 60}"})]
    with pytest.raises(TruncatedError, match=r"model\.slimtensors"):
        load_file(address)


def test_an_empty_file(web: Web) -> None:
    with pytest.raises(slimtensors.NotSlimtensorsError, match="an empty file"):
        load_file(web.put("empty.slimtensors", b""))


def test_a_small_file_from_a_server_without_ranges(web: Web) -> None:
    small = {"x": np.arange(300, dtype=np.float32)}
    address = web.put("small.slimtensors", save(small))
    web.odd = [Odd(times=99, ignore_range=True)]
    same(load_file(address), small)


def test_more_than_was_asked_for(web: Web, address: str, packed: bytes) -> None:
    """An endless answer is not read to its end."""
    body = packed[: spans.FRONT_BYTES] + bytes(64 << 20)
    web.odd = [Odd(chunked=True, body=body)]
    tracemalloc.start()
    try:
        slimtensors.inspect(address)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_slow_servers(web: Web, address: str, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    web.odd = [Odd(skip=1, trickle=(100_000, 0.05)), Odd(pause=(50_000, 1.5))]
    same(load_file(address), arrays)
    assert all(odd.times == 0 for odd in web.odd)
    (front,) = [each.range for each in web.take() if each.range is not None and each.range[0] == 50_000]
    assert front == (50_000, spans.FRONT_BYTES)  # what was waited for too long, asked for again


def test_a_server_that_never_ends(web: Web, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "PATIENCE", 0.1)
    web.odd = [Odd(times=99, trickle=(1, 0.03))]
    with pytest.raises(RemoteError, match="hardly sends anything"):
        load_file(address)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (Odd(head_drip=0.01), r"no answer from 127.0.0.1 \(its headers did not end within 0.2 s\)"),
        (Odd(chunked=True, chunk_drip=0.01), r"the connection broke off \(it sent nothing within 0.2 s\)"),
        (Odd(skip=1, head_drip=0.01), r"no answer from 127.0.0.1 \(its headers did not end within 0.2 s\)"),
    ],
)
def test_drips_without_end(
    web: Web, address: str, odd: Odd, words: str, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not even a piece of the file counts as nothing, and is tried again."""
    from huggingface_hub import constants

    monkeypatch.setattr(spans, "PATIENCE", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    web.odd = [odd]
    same(load_file(address), arrays)
    assert odd.times == 0
    odd.times = 99
    with pytest.raises(RemoteError, match=rf"model.slimtensors: {words}, 5 times in a row; try again later"):
        load_file(address)


def test_a_server_that_takes_its_time(
    web: Web, address: str, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever raises huggingface_hub's time limit waits longer for an answer, too."""
    from huggingface_hub import constants

    monkeypatch.setattr(spans, "PATIENCE", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    web.odd = [Odd(then=lambda: time.sleep(0.5))]
    same(load_file(address), arrays)
    assert [each.range for each in web.take()].count((0, spans.FRONT_BYTES)) == 1


@pytest.mark.usefixtures("address")
def test_redirects_are_kept_and_asked_for_again(web: Web, arrays: dict[str, np.ndarray]) -> None:
    moved = web.put("link.slimtensors", b"")
    redirect = Odd(status=302, headers={"Location": "/model.slimtensors?signature=secret"})
    web.odd = [redirect]
    with slimtensors.safe_open(moved) as file:
        file.get_tensor("layer0.weight")
        assert [each.path for each in web.take()].count("link.slimtensors") == 1
        web.odd = [Odd(status=403), Odd(status=302, headers=redirect.headers)]
        assert (file.get_tensor("layer2.weight") == arrays["layer2.weight"]).all()
        assert [each.path for each in web.take()].count("link.slimtensors") == 1
        web.odd = [Odd(times=99, status=403)]
        with pytest.raises(RemoteError) as caught:
            file.get_tensor("layer1.weight")
        assert "secret" not in str(caught.value)


def test_a_tensor_that_is_not_there(address: str) -> None:
    with slimtensors.safe_open(address) as file, pytest.raises(TensorNotFoundError, match=address):
        file.get_tensor("layer9.weight")


def test_a_reader_that_gives_up(address: str) -> None:
    """No connection stays open, no memory is held."""
    stream = stream_tensors([address])
    next(stream)
    stream.close()
    with slimtensors.safe_open(address) as file:
        loader = file.prefetch()
        loader.take("layer0.weight")
        loader.close()
        file.get_tensor("layer1.weight")


@pytest.mark.parametrize("left", [ordered.TAIL, ordered.TAIL + 1])
def test_the_first_has_the_link_for_itself(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """Nothing is asked for of the second tensor while more than a request is left of the first."""
    rng = np.random.default_rng(1)
    made = {name: rng.integers(0, 256, 8 << 20, np.uint8) for name in ("first", "second")}
    data = save(made)
    with open_file(data) as file:
        (_, firsts), (_, seconds) = (file.reader.records(stream) for stream in (0, 1))
    asked, gate, lock = list[int](), threading.Semaphore(0), threading.Condition()

    class Slow:
        def size(self) -> int:
            return len(data)

        def read_range(self, offset: int, length: int) -> bytes:
            if offset >= firsts[0]:
                with lock:
                    asked.append(offset)
                    lock.notify_all()
                gate.acquire()
            return data[offset : offset + length]

    monkeypatch.setattr(RangedSource, "remote", True)
    stream = stream_tensors(Slow(), threads=2)
    found: dict[str, Any] = {}
    reader = threading.Thread(target=lambda: found.update(stream))
    reader.start()
    gate.release(len(firsts) - left)
    with lock:
        begun = lock.wait_for(lambda: max(asked, default=0) >= seconds[0], 0.3 if left > ordered.TAIL else 60)
    gate.release(1000)
    reader.join()
    assert begun == (left == ordered.TAIL)
    same(found, made)


def test_forgotten_spans_are_bounded(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is begun and never read on is let go of, and read afresh if somebody comes after all."""
    from slimtensors.container.remote import open_remote
    from slimtensors_hub.remote import source as sources

    monkeypatch.setattr(sources, "MAX_SHARED", 2)
    data = np.random.default_rng(0).bytes(1 << 20)
    source = open_remote(web.put("noise", data))
    starts = range(spans.FRONT_BYTES, len(data), 4096)
    for start in starts:
        source.expect([(start, 1024), (start + 1024, 1024)])
    for start in starts:
        assert source.read(start, 1024).tobytes() == data[start : start + 1024]
    assert len(source._begun) == 2  # type: ignore[attr-defined] # what is bounded
    for start in starts:
        assert source.read(start + 1024, 1024).tobytes() == data[start + 1024 : start + 2048]
    source.close()


def test_a_base_elsewhere(web: Web, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save as save_plain

    plain = {name: array[:60, :300].astype(np.float32) for name, array in arrays.items() if name.endswith("weight")}
    tuned = {name: (array * np.float32(1 + 2**-12)).astype(np.float32) for name, array in plain.items()}
    base = web.put("base/model.safetensors", save_plain(plain))
    delta = web.put("tuned.slimtensors", save(tuned, base=base))
    web.take()
    same(load_file(delta, base=base), tuned)
    with pytest.raises(slimtensors.BaseError, match=r"model\.safetensors"):
        load_file(delta)
    again = web.put("base/model.slimtensors", save(plain))
    same(load_file(delta, base=again), tuned)


def test_shards(web: Web, arrays: dict[str, np.ndarray]) -> None:
    import json

    parts = [dict(list(arrays.items())[:3]), dict(list(arrays.items())[3:])]
    places = {}
    for number, part in enumerate(parts):
        shard = f"model-0000{number + 1}-of-00002.slimtensors"
        web.put(f"sharded/{shard}", save(part))
        places |= dict.fromkeys(part, shard)
    index = web.put("sharded/model.slimtensors.index.json", json.dumps({"weight_map": places}).encode())
    same(dict(stream_tensors(index)), arrays)
    for shard in ("../model.slimtensors", "http://127.0.0.1/x.slimtensors", "a/b.slimtensors", ".hidden.slimtensors"):
        hostile = json.dumps({"weight_map": dict.fromkeys(arrays, shard)}).encode()
        web.put("hostile/model.slimtensors.index.json", hostile)
        with pytest.raises(slimtensors.FormatError, match="is not a plain file name"):
            dict(stream_tensors(f"{web.address}/hostile/model.slimtensors.index.json"))


def test_names() -> None:
    endpoint = "https://huggingface.co"
    for name, expected in {
        "hf://a/b": ("model", "a/b", None, ""),
        "hf://a/b/c/model.slimtensors": ("model", "a/b", None, "c/model.slimtensors"),
        "hf://datasets/a/b@v1/x.json": ("dataset", "a/b", "v1", "x.json"),
        "hf://a/b@refs/pr/7/x.json": ("model", "a/b", "refs/pr/7", "x.json"),
        "hf://a/b@refs%2Fpr%2F7/x.json": ("model", "a/b", "refs/pr/7", "x.json"),
        "https://huggingface.co/a/b/resolve/main/x%20y.json?download=true": ("model", "a/b", "main", "x y.json"),
        "https://huggingface.co/datasets/a/b/blob/main/x.slimtensors": ("dataset", "a/b", "main", "x.slimtensors"),
    }.items():  # fmt: skip
        assert names.hub_name(name, endpoint) == names.HubName(*expected)
    for elsewhere in (
        "https://huggingface.co.example.org/a/b/resolve/main/x",
        "https://huggingface.co/a/b",
        "http://x/y",
    ):
        assert names.hub_name(elsewhere, endpoint) is None
    for wrong in ("hf://", "hf://a", "hf://a/b@", "hf://a/b@c@d"):
        with pytest.raises(UsageError, match="is not of the form"):
            names.hub_name(wrong, endpoint)
    hidden = f"{endpoint}/a/b/resolve/main/..%2Fy"
    for wrong in ("hf://a/b/../c", "hf://a/b@v/../../c", "hf://../b", "hf://a/b@..%2F..", hidden):
        with pytest.raises(UsageError, match="has steps that lead elsewhere"):
            names.hub_name(wrong, endpoint)
    assert names.shown("https://me:secret@example.org/a/b?signature=x") == "https://example.org/a/b"


def test_what_is_not_encrypted(web: Web, packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the user says so, and then a redirect may lead there too."""
    address = web.put("x.slimtensors", packed)
    elsewhere = {"Location": "http://example.invalid/x.slimtensors"}
    web.odd = [Odd(times=9, status=307, headers=elsewhere)]
    with pytest.raises(RemoteError, match=r"example.invalid/x.slimtensors, which is not encrypted; it is not followed"):
        load_file(address)
    monkeypatch.setenv("SLIMTENSORS_ALLOW_HTTP", "1")
    with pytest.raises(RemoteError, match=r"no answer from example.invalid"):
        load_file(address)


INNER = [
    "127.0.0.1", "127.9.9.9", "127.1", "2130706433", "0x7f.1", "0", "localhost", "LOCALHOST.", "x.localhost",
    "169.254.169.254", "[::1]", "[::]", "[fe80::1]", "[fe80::1%25eth0]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]",
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", INNER)
def test_no_server_elsewhere_leads_to_this_machine(host: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its services take who asks from here for one of their own."""
    monkeypatch.setenv("SLIMTENSORS_ALLOW_HTTP", "1")
    assert names.is_inner(f"{scheme}://{host}:81/x")
    file, asked = web_files.WebFile("https://example.org/x.slimtensors"), []
    leads = SimpleNamespace(status_code=302, headers={"location": f"{scheme}://{host}:81/x"}, close=lambda: None)
    monkeypatch.setattr(file, "_ask", lambda address, *_: asked.append(address) or leads)
    with pytest.raises(RemoteError, match=r"example.org/x.slimtensors leads to .*/x, which is this machine's own"):
        file.open(0, None)
    assert asked == ["https://example.org/x.slimtensors"]


def test_what_is_elsewhere_is_not_this_machine() -> None:
    for host in ("example.org", "10.0.0.1", "192.168.0.1", "[fc00::1]", "127.example.org", "localhost.example.org"):
        assert not names.is_inner(f"https://{host}/x")


def test_a_large_file_has_a_larger_front(web: Web, packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who redirects says how large the file is."""
    monkeypatch.setattr(spans, "FRONT_SHARE", 32)
    web.put("model.slimtensors", packed)
    address = web.put("link.slimtensors", b"")
    web.odd = [Odd(status=302, headers={"Location": "/model.slimtensors", "X-Linked-Size": str(len(packed))})]
    slimtensors.inspect(address)
    assert [each.range for each in web.take()] == [(0, spans.FRONT_BYTES), (0, len(packed) // 32)]
    assert [spans.front_bytes(size) for size in (None, 0, 1 << 50)] == [65536, 65536, spans.MAX_FRONT_BYTES]


def test_servers_say_how_long_to_wait(web: Web, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(spans.time, "sleep", waited.append)
    web.odd = [Odd(status=429, headers={"Retry-After": "7"}), Odd(status=503, headers={"Retry-After": "86400"})]
    slimtensors.inspect(address)
    steps = [round(asked / spans.WAIT_STEP) for asked in (7.0, spans.MAX_ASKED_WAIT)]
    assert waited == [spans.WAIT_STEP] * sum(steps)


def test_where_a_decompressed_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "hf://a/b@v/sub/model.slimtensors"
    for direction, made in ((DECOMPRESS, "model.safetensors"), (REWRITE, "model.slimtensors")):
        assert settle([name], None, direction, force=False) == [(name, Path(made), None)]
        assert settle([name], str(tmp_path), direction, force=False)[0].target == tmp_path / made
    Path("model.safetensors").touch()
    with pytest.raises(UsageError, match="is there already; --force replaces it"):
        settle([name], None, DECOMPRESS, force=False)
    for wrong in ([name, name], ["hf://a/b"], ["https://example.org/model.bin"]):
        for out in (None, str(tmp_path)):
            with pytest.raises(UsageError, match=r"one at a time|does not end in \.slimtensors, so what is made"):
                settle(wrong, out, DECOMPRESS, force=False)
    link = "https://example.org/download/123"
    for direction in (DECOMPRESS, SALVAGE, REWRITE):
        target = tmp_path / f"123{direction.after}"
        assert settle([link], str(target), direction, force=False) == [(link, target, None)]


def test_what_is_not_opened() -> None:
    for name, words in {
        "http://example.org/x.slimtensors": "is not encrypted: write https://, or set SLIMTENSORS_ALLOW_HTTP=1",
        "gs://bucket/x.slimtensors": "cannot read from gs://",
        "hf://a/b": "is not a file's name",
    }.items():
        with pytest.raises(UsageError, match=words):
            slimtensors.safe_open(name)
    for rest in ("[::1/x", "me:secret@x:99999/y", "x:y/z", "a..b/x", "a" * 99 + "/x"):
        with pytest.raises(UsageError, match=r"^https://[^@]* is not an address \(.*\): check the name$"):
            slimtensors.safe_open("https://" + rest)
    for lost in (Path("hf://a/b/m.slimtensors"), Path("https://example.org/m"), Path("s3://b/m")):
        streamed = lambda name: list(stream_tensors(name))  # noqa: E731
        for verb in (slimtensors.inspect, slimtensors.safe_open, streamed, lambda name: save_file({}, name)):
            with pytest.raises(UsageError, match=r"(hf|https|s3):// for what lies elsewhere, and give a str"):
                verb(lost)
    with pytest.raises(UsageError, match="cannot be mapped"):
        slimtensors.safe_open("https://example.org/x.slimtensors", mmap=True)


# `verify` gets all chunks of so small a file at once: there is one thread that waits.
@pytest.mark.parametrize(("command", "waiting"), [("verify", 1), ("estimate", 2)])
def test_an_interrupt_while_threads_wait_for_a_server(
    web: Web, arrays: dict[str, np.ndarray], command: str, waiting: int
) -> None:
    """They need not get what nobody waits for any more: before, it took all their tries, minutes."""
    from safetensors.numpy import save as save_plain

    made = {name: array.astype(np.float32) for name, array in arrays.items()}
    address = web.put("x", save_plain(made) if command == "estimate" else save(made))
    web.odd = [Odd(skip=2, times=99, head_drip=0.1)]
    process = processes.start(command, address, "-j", 2)
    deadline = time.monotonic() + 60
    while len(web.asked) < 2 + waiting:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, b"slimtensors: interrupted; nothing half-written is left\n")
    assert time.monotonic() - began < 10


def test_a_third_interrupt_does_not_wait(web: Web, address: str) -> None:
    """Here, for a server that says nothing at all."""
    web.odd = [Odd(skip=1, times=99, then=lambda: time.sleep(30))]
    process = processes.start("verify", address, "-j", 2)
    deadline = time.monotonic() + 60
    while len(web.asked) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, error = process.communicate(timeout=5)
    assert process.returncode == 130
    assert error == b"slimtensors: removing temporary files; once more to leave at once\n"
