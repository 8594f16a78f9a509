"""A server of shards on this machine, with every fault that one may have."""

import hashlib
import random
import re
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["CONTENT", "MB", "SECRET", "SHA256", "Server", "content_of"]

CONTENT = random.Random(5).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SECRET = "hunter2"
MB = 1 << 20


class Server(ThreadingHTTPServer):
    """Serves one content under every name that ends in .tar; each GET takes one fault.

    Faults: a status, "reset" (half of the answer), "short" (fewer bytes than announced, politely),
    "whole" (no ranges), "change" (another version from now on).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges = CONTENT, '"v1"', True
        self.modified = None
        self.pause = 0.0  # seconds between pieces of 32 kB
        self.faults, self.gets, self.conditions, self.heads = deque(), [], [], 0

    def url(self, name="a.tar", user=""):
        return f"http://{user}127.0.0.1:{self.server_port}/s/{name}"

    def handle_error(self, request, client_address):
        pass  # clients are killed here


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _begin(self, status, length, **extra):
        self.send_response(status)
        names = {"ETag": self.server.etag, "Last-Modified": self.server.modified, **extra}
        for name, value in names.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _found(self):
        return self.path.partition("?")[0].endswith((".tar", ".json"))

    def do_HEAD(self):
        self.server.heads += 1
        self._begin(200 if self._found() else 404, len(self.server.content))

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.gets.append(asked)
        server.conditions.append(self.headers.get("If-Range"))
        if self.path.endswith("/"):
            page = "".join(f'<a href="{name}">x</a>' for name in ("b.tar", "a.tar", "c.txt", "../"))
            self._begin(200, len(page), Content_Type="text/html")
            self.wfile.write(page.encode())
            return
        fault = server.faults.popleft() if server.faults else None
        if isinstance(fault, int) or not self._found():
            self._begin(fault or 404, 0, Retry_After="0" if fault == 429 else None)
            return
        if fault == "change":
            server.etag, server.content = '"v2"', CONTENT[::-1]
        condition = self.headers.get("If-Range") in (None, server.etag)
        content, start = server.content, 0
        if asked and condition and server.ranges and fault != "whole":
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            told = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._begin(206, len(content) - start, Content_Range=told)
        else:
            self._begin(200, len(content))
        stop = (start + len(content)) // 2 if fault in ("reset", "short") else len(content)
        for at in range(start, stop, 32_768):
            self.wfile.write(content[at : min(at + 32_768, stop)])
            time.sleep(server.pause)
        if fault in ("reset", "short"):
            time.sleep(0.05)  # until the client has read it
            self.close_connection = True


def content_of(cache, file):
    with cache.open(file) as copy:
        return copy.path.read_bytes()
