import threading

import fsspec
import pytest
from data.file_server import MB, Server

from zoo.data.remote import retry
from zoo.data.remote.cache import ShardCache


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def store():
    """Files in fsspec's memory: what goes for S3 and GCS, too."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(retry, "_WAIT", 0.01)


@pytest.fixture
def cache(tmp_path):
    return ShardCache(tmp_path / "cache", limit_bytes=100 * MB)
