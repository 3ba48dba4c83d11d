"""As much of a wandb server as its clients need: runs are kept and resumed, artifacts too."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse


@dataclass
class Kept:
    """A run as the server has it."""

    fields: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    finished: int = 0


@dataclass
class Server:
    """What it was told. ``bytes`` holds every request's body and path, headers aside."""

    url: str = ""
    runs: dict[str, Kept] = field(default_factory=dict)
    made: dict[str, set[str]] = field(default_factory=dict)
    """Artifact (type:name:digest) -> runs that made it."""
    used: dict[str, set[str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Report -> its specification."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    bytes: list[bytes] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL request."""
        name = " ".join(query.split("(")[0].split("{")[0].split()[1:]) or "anonymous"
        self.asked[name] += 1
        found = getattr(self, f"_{name}", None)
        if name.startswith("Probe"):
            return {}
        if found is None:
            self.unknown.append(query)
            return {}
        return dict(found(variables))

    def _ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": "someone", "flags": "{}", "teams": {"edges": []}}}

    _anonymous = _Viewer

    def _GetDefaultEntity(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"__typename": "User", "id": "u", "entity": "someone"}}

    def _GetViewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": _USER}

    def _GetProjects(self, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"__typename": "Project", "id": "p", "name": "coincide", "isBenchmark": False}
        node = {**project, "entityName": "someone", "createdAt": "2026-01-01", "user": _USER}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node}]}}

    def _upsertView(self, variables: dict[str, Any]) -> dict[str, Any]:
        identity = variables["id"] or f"view{len(self.views)}"
        inserted = identity not in self.views
        self.views[identity] = json.loads(variables["spec"])
        project = {"id": "p", "name": "coincide", "entityName": "someone"}
        given = {k: variables[k] for k in ("type", "name", "displayName", "description", "spec")}
        view = {"id": identity, **given, "project": project, "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": inserted}}

    def _ArtifactType(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        kept = self.runs.get(variables["name"])
        model = {"id": "m", "name": variables["project"], "entity": {"id": "e", "name": "someone"}}
        return {"model": {**model, "bucket": kept and _bucket(variables["name"], kept)}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        inserted = name not in self.runs
        kept = self.runs.setdefault(name, Kept())
        kept.fields.update({k: v for k, v in variables.items() if v is not None})
        entity = {"id": "e", "name": "someone"}
        project = {"id": "p", "name": variables["project"], "entity": entity}
        bucket = {**_bucket(name, kept), "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables.get("input", variables)  # `wandb sync` speaks an older dialect
        (collection,) = given.get("artifactCollectionNames") or [given["artifactCollectionName"]]
        name = ":".join((given["artifactTypeName"], collection, given["digest"]))
        self.made.setdefault(name, set()).add(given["runName"])
        sequence = {"id": "s", "latestArtifact": None}
        identity = b64encode(f"Artifact:{len(self._names):06d}".encode()).decode()
        self._names[identity] = name
        artifact = {"id": identity, "state": "PENDING", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _ArtifactByID(self, variables: dict[str, Any]) -> dict[str, Any]:
        kind, name, digest = self._names[variables["id"]].split(":")
        project = {"name": "coincide", "entity": {"name": "someone"}}
        sequence = {"__typename": "ArtifactSequence", "name": name, "project": project}
        artifact = {
            "__typename": "Artifact", "id": variables["id"], "artifactSequence": sequence,
            "versionIndex": 0, "artifactType": {"name": kind}, "description": None,
            "metadata": "{}", "ttlDurationSeconds": -1, "ttlIsInherited": True, "tags": [],
            "historyStep": None, "state": "COMMITTED", "size": 1, "digest": digest,
            "commitHash": "c", "fileCount": 1, "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None, "aliases": [],
        }  # fmt: skip
        return {"artifact": artifact}

    def _CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        upload = self._upload(f"{self._names[variables['artifactID']]}/manifest")
        file = {"id": "f", "name": "m", "displayName": "m", **upload}
        return {"createArtifactManifest": {"artifactManifest": {"id": "am", "file": file}}}

    def _FetchArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = self._names[variables["id"]]
        url = self._upload(f"{name}/manifest")["uploadUrl"]
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def _CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = [
            {"node": self._artifact_file(spec)} for spec in variables["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _artifact_file(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "f", "name": spec["name"], "displayName": spec["name"],
            **self._upload(f"{self._names[spec['artifactID']]}/{spec['name']}"),
            "storagePath": spec["name"], "uploadMultipartUrls": None,
            "artifact": {"id": spec["artifactID"]},
        }  # fmt: skip

    def _CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "d"}}}

    def _UseArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables.get("input", variables)
        self.used.setdefault(self._names[given["artifactID"]], set()).add(given["runName"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{variables['run']}/{name}"}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def _RunUploadUrls(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {"name": n, "url": f"{self.url}/upload/{variables['run']}/{n}", "updatedAt": None}
            for n in variables["files"]
        ]
        files = {"uploadHeaders": [], "edges": [{"node": node} for node in nodes]}
        return {"model": {"bucket": {"id": "r", "files": files}}}

    def _TypeFields(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"TypeInfo": {"fields": []}}

    def _InputFields(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"TypeInfo": {"inputFields": []}}

    def _upload(self, name: str) -> dict[str, Any]:
        return {"uploadUrl": f"{self.url}/upload/{name}", "uploadHeaders": []}

    def stream(self, run: str, body: dict[str, Any]) -> None:
        """Lines of the run's files: history, summary."""
        kept = self.runs[run]
        for name, part in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                del kept.history[part["offset"] :]
                kept.history += lines
            elif name == "wandb-summary.json":
                kept.summary = lines[-1]
        kept.finished += bool(body.get("complete"))


_USER = {
    "id": "u", "name": "s", "username": "s", "email": "", "admin": False, "flags": "{}",
    "entity": "someone", "deletedAt": None, "apiKeys": {"edges": []}, "teams": {"edges": []},
}  # fmt: skip


def _bucket(name: str, kept: Kept) -> dict[str, Any]:
    return {
        "id": name, "name": name, "displayName": kept.fields.get("displayName"),
        "description": None, "sweepName": None, "config": kept.fields.get("config", "{}"),
        "tags": kept.fields.get("tags", []), "notes": None, "wandbConfig": '{"t": {"5": "0.25.0"}}',
        "summaryMetrics": json.dumps(kept.summary),
        "logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(kept.history),
        "historyTail": json.dumps([json.dumps(line) for line in kept.history[-1:]]),
        "eventsTail": "[]",
    }  # fmt: skip


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a port of its own, for as long as the block runs."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None: ...

        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlparse(self.path).path
            with server.lock:
                server.bytes.append(self.path.encode() + b"\n" + body)
                answer: dict[str, Any] = {}
                if path == "/graphql":
                    asked = json.loads(body)
                    answer = {"data": server.answer(asked["query"], asked.get("variables") or {})}
                elif path.endswith("/file_stream"):
                    server.stream(path.split("/")[-2], json.loads(body))
                if self.command == "GET":
                    answer = json.loads(server.uploads[path])
                elif path != "/graphql" and not path.endswith("/file_stream"):
                    server.uploads[path] = body
            told = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = do_PUT = _take

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None:
            """A client that goes away in the middle is no concern of the test."""

    http = Quiet(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
