"""A web server on this machine that serves what a test gives it, and notes what it is asked for."""
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web:
    """``pages``: path -> bytes, or (status, headers, bytes). ``asked``: the methods and paths that were asked for."""

    def __init__(self):
        self.pages, self.asked, self.address = {}, [], ""


@contextmanager
def serving():
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            web.asked.append(f"{self.command} {self.path}")
            page = web.pages.get(self.path, (404, {}, b""))
            status, headers, contents = (200, {}, page) if isinstance(page, bytes) else page
            self.send_response(status)
            for name, value in {"Content-Length": str(len(contents)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(contents)

        do_HEAD = do_GET

        def log_message(self, *_):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    web.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
