"""A server of a folder's files on this machine that can misbehave as told."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``files`` (bytes by path) below ``address``.

    Attributes:
        requests: path of every request so far.
        cut_after: number of bytes of a body after which the connection is closed.
        encoding: the Content-Encoding it declares.
        length: whether it says how long a body is.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[str] = []
        self.cut_after: int | None = None
        self.encoding: str | None = None
        self.length = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.path)
        body = self.files.get(handler.path.lstrip("/"))
        if body is None:
            handler.send_error(404)
            return
        handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        if self.encoding:
            handler.send_header("Content-Encoding", self.encoding)
        handler.end_headers()
        handler.wfile.write(body[: self.cut_after])
        handler.wfile.flush()
        handler.close_connection = True
