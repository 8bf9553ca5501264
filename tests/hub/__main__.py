"""A Hub in a process of its own, for benchmarks and examples: prints one line of JSON with its addresses, then serves.

python -m tests.hub --rate 6250000 alice/tiny=folder/

Clients need HF_ENDPOINT, which is the endpoint printed, and HF_HUB_DISABLE_XET=1: files travel by LFS here.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

from .server import HubServer

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", nargs="*", metavar="ID=FOLDER", help="folders to serve")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, help="bytes per second, all connections together")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    asked = parser.parse_args()
    with HubServer(port=asked.port, rate=asked.rate, latency=asked.latency) as hub:
        commits = {}
        for repository in asked.repositories:
            name, _, folder = repository.partition("=")
            commits[name] = hub.store.add_folder(name, Path(folder))
        print(json.dumps({"endpoint": hub.endpoint, "storage": hub.storage, "commits": commits}), flush=True)
        threading.Event().wait()
