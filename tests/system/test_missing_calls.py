"""Systems without this or that call, of which Linux has all."""

from __future__ import annotations

import sys

import pytest

from faults import processes

ROUND_TRIPS = """
import io, json, tempfile, threading
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file as save_safetensors
import slimtensors
from slimtensors.container import system
from slimtensors.numpy import load_file, save_file

generator = np.random.default_rng(1)
arrays = {f"t{i}": generator.normal(size=200_000).astype(np.float32) for i in range(4)} | {"small": np.arange(9)}
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    source, path, back = folder / "source", folder / "model", folder / "back"
    save_safetensors(arrays, source)
    for _ in range(2):  # a new file, and one that is replaced
        slimtensors.compress(source, path)
        slimtensors.decompress(path, back)
        assert back.read_bytes() == source.read_bytes()
        save_file(arrays, path)
        for mmap in (False, True):
            loaded = load_file(path, threads=4, mmap=mmap)
            assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
    save_file(arrays, target := io.BytesIO())
    assert target.getvalue() == path.read_bytes()
    path.with_name("cut").write_bytes(target.getvalue()[:-1])
    try: load_file(path.with_name("cut"))
    except slimtensors.TruncatedError: pass
    else: raise AssertionError
    if hasattr(system.os, "symlink"):
        link = folder / "link"
        link.symlink_to(path)
        save_file(arrays, link)
        assert link.is_symlink()
    assert {p.name for p in folder.iterdir()} <= {"source", "model", "back", "cut", "link"}
print(json.dumps(sorted(calls) if "calls" in globals() else None))
"""

# What reading, writing and locking may miss. Set to none before anything is imported, as if never there.
WITHOUT = """
import os, sys
for name in sys.argv[1].split(","):
    for module in (os, sys.modules["posix"]):
        if hasattr(module, name): delattr(module, name)
sys.modules["fcntl"] = None
import warnings
warnings.filterwarnings("ignore", "only soft file lock")  # filelock says so
"""

READING = "preadv,preadv2"
POSIX = f"{READING},pread,pwrite,pwritev,readv,posix_fallocate,posix_fadvise,fchmod,fdatasync,copy_file_range"
FLAGS = "O_CLOEXEC,O_NOFOLLOW,O_NONBLOCK,O_DIRECTORY,O_TMPFILE,O_PATH"
PROCESSORS = "sched_getaffinity,sched_setaffinity,process_cpu_count"


@pytest.fixture(scope="module")
def kernels():
    """Compiled and cached, so that no process here needs a lock for that."""
    processes.run(ROUND_TRIPS)


@pytest.mark.skipif(sys.platform == "win32", reason="they are missing there anyway")
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("missing", [READING, POSIX, FLAGS, f"{POSIX},{FLAGS},{PROCESSORS}"])
def test_round_trips_without(missing):
    assert processes.run(WITHOUT + ROUND_TRIPS, missing) is None


MACOS = """
import errno, os, sys, types
import numba, numpy, slimtensors.numpy, slimtensors.files.converting, slimtensors.reading.verifying
# all of which found the system as it is
slimtensors.numpy.save({"a": numpy.arange(100_000.0)})
calls = []
fcntl = types.ModuleType("fcntl")
fcntl.F_FULLFSYNC = 51
def call(descriptor, command):
    os.fstat(descriptor)  # is open
    calls.append(f"fcntl {command}")
    if sys.argv[1] == "unsupported": raise OSError(errno.ENOTSUP, "as injected")
fcntl.fcntl = call
fsync = os.fsync
def count(descriptor):
    import stat
    calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
    fsync(descriptor)
os.fsync = count
sys.modules["fcntl"] = fcntl
sys.platform = "darwin"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="macOS is a POSIX")
@pytest.mark.parametrize(
    ("kind", "expected"), [("supported", {"fcntl 51"}), ("unsupported", {"fcntl 51", "file", "folder"})]
)
def test_macos_flushes_to_the_disk_and_not_only_to_its_cache(kind, expected):
    assert set(processes.run(MACOS + ROUND_TRIPS, kind)) == expected


FOLDERS = """
import errno, json, os, stat, sys
import numpy as np
from slimtensors.numpy import save_file
number = getattr(errno, sys.argv[2])
fsync = os.fsync
def of_a_folder(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode): raise OSError(number, "as injected")
    fsync(descriptor)
os.fsync = of_a_folder
try: save_file({"a": np.arange(10)}, sys.argv[1])
except OSError as error: print(json.dumps(error.errno == number))
else: print("null")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be opened there")
@pytest.mark.parametrize(("error", "raised"), [("EINVAL", None), ("ENOTSUP", None), ("EIO", True)])
def test_folders_that_cannot_be_flushed(error, raised, tmp_path):
    assert processes.run(FOLDERS, tmp_path / "model", error) is raised
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
