"""A server that answers as Hugging Face's hub does, as far as `load_dataset` asks it."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + 34 * "0"


@contextmanager
def serving(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve one data set, whose only commit is COMMIT; give the address for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api, path = f"/api/datasets/{name}", self.path.partition("?")[0]
            if path in {api, f"{api}/revision/{COMMIT}"}:
                self.answer(json.dumps({"id": name, "sha": COMMIT, "tags": [], "siblings": []}))
            elif path == f"{api}/tree/{COMMIT}":
                listed = [
                    {"type": "file", "path": file, "size": len(content), "oid": _oid(content)}
                    for file, content in files.items()
                ]
                self.answer(json.dumps(listed))
            elif path.startswith(f"/datasets/{name}/resolve/{COMMIT}/"):
                self.answer(files.get(path.rpartition("/")[2]))
            else:
                self.answer(None)

        def do_HEAD(self) -> None:
            self.do_GET()

        def answer(self, content: str | bytes | None) -> None:
            body = content.encode() if isinstance(content, str) else content or b""
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("ETag", f'"{_oid(body)}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
