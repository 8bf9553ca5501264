"""No room for the new file: the old one stays, and nothing else does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from faults import processes

SAVE_IN_TOO_LITTLE_ROOM = """
import json, errno, sys
from pathlib import Path
import numpy as np
from slimtensors.numpy import save, save_file

arrays = {"a": np.random.default_rng(1).normal(size=20_000).astype(np.float32), "b": np.arange(100)}
old, new = save({"a": np.arange(10.0)}), save(arrays)

def save_with_room_for(place, sizes, limit, expected):
    path, refused = place / "model", 0
    path.write_bytes(old)
    for size in sizes:
        limit(size)
        try:
            save_file(arrays, path, threads=1)
        except OSError as error:
            assert (error.errno, error.filename) == (expected, str(path)), (size, error)
            refused += 1
        else:
            raise AssertionError(f"{size} bytes were enough")
        assert path.read_bytes() == old, size
        assert list(place.iterdir()) == [path], size
    limit(1 << 24)
    save_file(arrays, path)
    assert path.read_bytes() == new
    print(json.dumps(refused))
"""

LARGEST_FILE = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
sizes = [1, *range(1024, len(new), 1024), len(new) - 1]
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
save_with_room_for(Path(sys.argv[1]), sizes, limit, errno.EFBIG)
"""

SMALL_DISK = """
import subprocess
place = sys.argv[1]
def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
mount("size=4096k")
needed = sum(-(-len(file) // 4096) * 4096 for file in (old, new))
# A page is taken by each file, and a file system may round its size up: so as many pages less.
sizes = [pages * 4096 for pages in range(-(-len(old) // 4096), needed // 4096)]
save_with_room_for(Path(place), sizes, lambda size: mount(f"remount,size={size}"), errno.ENOSPC)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes there")
def test_no_file_may_be_large_enough(tmp_path):
    assert processes.run(SAVE_IN_TOO_LITTLE_ROOM + LARGEST_FILE, tmp_path) > 50


def private_mounts() -> list[str]:
    """What to put before a command, so that it may mount and nobody else sees it; empty if that is not allowed."""
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if shutil.which("unshare"):
            trial = [*command, "mount", "-t", "tmpfs", "tmpfs", os.curdir]
            if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
                return command
    return []


def test_a_full_disk(tmp_path):
    command = private_mounts()
    if not command:
        pytest.skip("no small disk can be mounted here: it takes unshare, and the right to mount")
    script = SAVE_IN_TOO_LITTLE_ROOM + SMALL_DISK
    assert processes.run(script, tmp_path, before=command) > 10
