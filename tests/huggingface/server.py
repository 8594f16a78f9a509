"""A hub on the loopback: what the real client of huggingface_hub needs, and faults on request.

Endpoints and their answers are those that the client was seen to use. Large files lie at another
origin than the API (localhost and 127.0.0.1), as on the Hub.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secretsecret"
LARGE = 1000  # bytes from which a file goes the way of LFS, as do all weights


@dataclass
class Commit:
    oid: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision):
        oid = self.tags.get(revision, revision)
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def commit(self, files):
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append(Commit(oid, dict(files)))
        return oid


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" matches."""

    match: str
    kind: int | str  # an HTTP status, "cut", "flip", "reset", "slow"
    times: int = 1


class Hub(ThreadingHTTPServer):
    """Repositories by name; `requests` lists what was asked as "METHOD path"."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.blobs = {}, {}
        self.requests, self.faults, self.lock = [], deque(), threading.RLock()
        self.before_commit = lambda: None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name, files, **kind):
        repo = self.repos.setdefault(name, Repo(**kind))
        return repo.commit((repo.commits[-1].files if repo.commits else {}) | files)

    def fail(self, match, kind, times=1):
        self.faults.append(Fault(match, kind, times))

    def fault(self, request):
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.match, request):
                    fault.times -= 1
                    return fault.kind
        return None

    def handle_error(self, request, client_address):
        pass  # clients are cut off here


@contextmanager
def running():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def is_large(path, data):
    return len(data) >= LARGE or path.endswith((".safetensors", ".bin", ".png"))


def facts(path, data):
    found = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
    if is_large(path, data):
        found["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
    return found


def sibling(path, data):
    found = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
    if is_large(path, data):
        found["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
    return found


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.body = self._read()
        with hub.lock:
            hub.requests.append(request)
        self.trouble = hub.fault(request)
        if isinstance(self.trouble, int):
            return self._fail(self.trouble, "Trouble", "as the test wants it")
        if self.trouble == "reset":
            self.close_connection = True
            return self.connection.close()
        if self.trouble == "slow":
            time.sleep(0.5)
        for pattern, action in ROUTES:
            if match := re.fullmatch(pattern, request):
                return getattr(self, action)(*match.groups())
        return self._fail(404, "NotFound", "no such route")

    def _read(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def _is_known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _send(self, status, data=b"", **headers):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        length = len(data)
        if self.trouble == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        if self.trouble == "cut":
            data, self.close_connection = data[: length // 3], True
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fail(self, status, code, message, **more):
        self._send(status, {"error": message}, X_Error_Code=code, X_Error_Message=message, **more)

    def _repo(self, name, *, write=False):
        """The repository, or None after an answer that says why not."""
        repo = self.server.repos.get(name)
        if write and not self._is_known:
            self._fail(401, "Unauthorized", "a token is needed")
        elif repo is None or (repo.private and not self._is_known):
            self._fail(404 if self._is_known else 401, "RepoNotFound", "no such repository")
        elif repo.gated and not self._is_known:
            self._fail(403, "GatedRepo", "ask for access")
        else:
            return repo
        return None

    def _commit(self, name, revision):
        repo = self._repo(name)
        if repo is None:
            return None
        commit = repo.at(revision)
        if commit is None:
            self._fail(404, "RevisionNotFound", "no such revision")
        return commit

    def whoami(self):
        if not self._is_known:
            return self._fail(401, "Unauthorized", "who?")
        token = {"displayName": "t", "role": "write"}
        auth = {"type": "access_token", "accessToken": token}
        return self._send(200, {"type": "user", "name": "me", "orgs": [], "auth": auth})

    def create(self):
        if not self._is_known:
            return self._fail(401, "Unauthorized", "a token is needed")
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        answer = {"url": f"{self.server.url}/{name}", "name": name, "id": name}
        with self.server.lock:
            if name in self.server.repos:
                return self._send(409, answer | {"error": "exists"})
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.server.repos[name] = Repo(private=private)
            self.server.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return self._send(200, answer)

    def settings(self, name):
        repo = self._repo(name, write=True)
        if repo is not None:
            asked = json.loads(self.body)
            repo.private = asked.get("private", asked.get("visibility") == "private")
            self._send(200, {"private": repo.private})

    def validate(self):
        self._send(200, {"errors": [], "warnings": []})

    def info(self, name, revision="main"):
        commit = self._commit(name, revision)
        if commit is not None:
            repo = self.server.repos[name]
            files = [sibling(path, data) for path, data in sorted(commit.files.items())]
            self._send(
                200,
                {
                    "_id": "0", "id": name, "modelId": name, "sha": commit.oid, "tags": [],
                    "private": repo.private, "gated": repo.gated, "disabled": False,
                    "downloads": 0, "likes": 0, "siblings": files,
                },
            )  # fmt: skip

    def tree(self, name, revision):
        commit = self._commit(name, revision)
        if commit is not None:
            self._send(200, [facts(path, data) for path, data in sorted(commit.files.items())])

    def paths(self, name, revision):
        commit = self._commit(name, revision)
        if commit is not None:
            wanted = parse_qs(self.body.decode()).get("paths", [])
            there = [path for path in wanted if path in commit.files]
            self._send(200, [facts(path, commit.files[path]) for path in there])

    def refs(self, name):
        repo = self._repo(name)
        if repo is not None:
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid}
                for tag, oid in repo.tags.items()
            ]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commits[-1].oid}
            self._send(200, {"branches": [main], "tags": tags, "converts": []})

    def preupload(self, name, revision):
        repo = self._repo(name, write=True)
        if repo is not None:
            there = repo.at(revision).files
            answer = []
            for file in json.loads(self.body)["files"]:
                path, old = file["path"], there.get(file["path"])
                large = file["size"] >= LARGE or path.endswith((".safetensors", ".bin", ".png"))
                oid = None if old is None else (sha256(old) if large else git_sha1(old))
                mode = "lfs" if large else "regular"
                answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._send(200, {"files": answer})

    def batch(self, name):
        if self._repo(name, write=True) is not None:
            objects = []
            for one in json.loads(self.body)["objects"]:
                if one["oid"] not in self.server.blobs:
                    href = f"{self.server.url}/upload/{one['oid']}"
                    verify = {"href": f"{self.server.url}/verify", "header": {}}
                    one["actions"] = {"upload": {"href": href, "header": {}}, "verify": verify}
                objects.append(one)
            self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid):
        data = self.body if self.trouble != "flip" else b"?" + self.body[1:]
        self.trouble = None
        if sha256(data) != oid:
            return self._fail(422, "Corrupt", "other bytes than announced")
        self.server.blobs[oid] = data
        return self._send(200)

    def verify(self):
        asked = json.loads(self.body)
        stored = self.server.blobs.get(asked["oid"])
        self._send(200 if stored is not None and len(stored) == asked["size"] else 422, {})

    def commit(self, name, revision):
        repo = self._repo(name, write=True)
        if repo is None:
            return None
        self.server.before_commit()
        with self.server.lock:
            files = dict(repo.commits[-1].files)
            for line in self.body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "header":
                    if value.get("parentCommit") not in (None, repo.commits[-1].oid):
                        return self._fail(412, "Moved", "the branch has moved on")
                elif entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    if value["oid"] not in self.server.blobs:
                        return self._fail(400, "NoSuchObject", "upload it first")
                    files[value["path"]] = self.server.blobs[value["oid"]]
                elif entry["key"] == "deletedFile":
                    files.pop(value["path"], None)
            oid = repo.commit(files)
        url = f"{self.server.url}/{name}/commit/{oid}"
        return self._send(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def tag(self, name, revision):
        repo = self._repo(name, write=True)
        if repo is not None:
            tag = json.loads(self.body)["tag"]
            if tag in repo.tags:
                return self._fail(409, "Exists", "that tag exists")
            repo.tags[tag] = repo.at(revision).oid
            self._send(200, {})
        return None

    def resolve(self, name, revision, path):
        commit = self._commit(name, revision)
        if commit is None:
            return None
        data, about = commit.files.get(path), {"X_Repo_Commit": commit.oid}
        if data is None:
            return self._fail(404, "EntryNotFound", "no such file", **about)
        if is_large(path, data):
            place = f"http://localhost:{self.server.server_port}/cdn/{sha256(data)}"
            self.server.blobs[sha256(data)] = data
            linked = {"X_Linked_Etag": f'"{sha256(data)}"', "X_Linked_Size": str(len(data))}
            return self._send(302, Location=place, **about, **linked)
        return self._bytes(data, git_sha1(data), **about)

    def cdn(self, oid):
        self._bytes(self.server.blobs[oid], oid)

    def _bytes(self, data, etag, **headers):
        headers |= {"ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            begin, end = int(found[1]), int(found[2] or len(data) - 1)
            headers["Content_Range"] = f"bytes {begin}-{end}/{len(data)}"
            return self._send(206, data[begin : end + 1], **headers)
        return self._send(200, data, **headers)


_NAME, _REV = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
ROUTES = [
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/repos/create", "create"),
    (rf"PUT /api/models/{_NAME}/settings", "settings"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"GET /api/models/{_NAME}", "info"),
    (rf"GET /api/models/{_NAME}/revision/{_REV}", "info"),
    (rf"GET /api/models/{_NAME}/tree/{_REV}", "tree"),
    (rf"POST /api/models/{_NAME}/paths-info/{_REV}", "paths"),
    (rf"GET /api/models/{_NAME}/refs", "refs"),
    (rf"POST /api/models/{_NAME}/preupload/{_REV}", "preupload"),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /upload/(\w+)", "upload"),
    (r"POST /verify", "verify"),
    (rf"POST /api/models/{_NAME}/commit/{_REV}", "commit"),
    (rf"POST /api/models/{_NAME}/tag/{_REV}", "tag"),
    (rf"(?:HEAD|GET) /{_NAME}/resolve/{_REV}/(.+)", "resolve"),
    (r"(?:HEAD|GET) /cdn/(\w+)", "cdn"),
]
