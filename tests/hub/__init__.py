"""A Hub on localhost for tests, benchmarks and examples: its protocol over HTTP, with faults on demand.

    from hub import ALICE, BOB, Client, HubServer  # in tests; `from tests.hub import ...` from the checkout's root

    with HubServer() as hub:
        hub.store.add("alice/tiny", {"config.json": b"{}", "model.safetensors": data})  # a commit; gives its id
        client = Client(hub, home=tmp_path)                          # someone's machine, with a cache of its own
        client.run("hf", "download", "alice/tiny")                   # a command of this environment
        client.python("import huggingface_hub; ...", token=BOB)      # what a script prints
        with client.talk(log) as talk:                               # a process that evaluates line after line
            talk("import huggingface_hub"); talk("1 / 0").error      # "ZeroDivisionError"
        hub.requests.paths(), hub.requests.sent()                    # what was asked; bytes of all answers' bodies
        hub.faults.add(path="/resolve/", status=503, times=2)        # faults.py has all that can go wrong

Clients are not modified. They read HF_ENDPOINT and HF_HOME when huggingface_hub is imported, so they run in processes
of their own; `hub.environment(home)` gives the variables (HF_HUB_DISABLE_XET, too: files travel by LFS).
`HubServer(rate=50e6 / 8)` limits the bytes per second of all connections together, `latency=` waits before each answer;
`hub.link.rate` may change. Tokens are `hub.store.tokens` (`ALICE` and `BOB` can write to repositories of their own,
`READER` to none); delete one there to revoke it. Repositories are private or gated by `hub.store.add(..., gated=True)`,
`hub.store.repository(id).granted.add("bob")`.

As on the Hub, large files are not served by the server that is asked: it answers with a redirect to another one
(`hub.storage`, another port) that takes signed addresses and refuses requests that bring a token. With
`HubServer(redirect=False)` it serves everything itself. What is uploaded must have the SHA-256 that it says.
`python -m tests.hub --help` runs a Hub alone; what it was asked is then at /_hub/requests (GET, DELETE).
"""

from .clients import Client
from .server import HubServer
from .store import ALICE, BOB, READER

__all__ = ["ALICE", "BOB", "READER", "Client", "HubServer"]
