"""An S3-compatible server on this machine (moto's), which can be made to fail in the middle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "bucket"


class Failing:
    """A WSGI application that answers so many requests, and then fails all others.

    Attributes:
        left: requests that are still answered; None is all.
        drops: whether connections are dropped then, instead of answered with status 500.
        asked: requests so far.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self.left: int | None = None
        self.drops = False
        self.asked = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.asked += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                if self.drops:
                    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                start_response("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer


@contextmanager
def s3_server() -> Iterator[tuple[str, Failing]]:
    """The address of a server with one empty bucket, and what makes it fail."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    failing = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, failing, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket=BUCKET)
    try:
        yield address, failing
    finally:
        server.shutdown()
        thread.join()
