"""Listeners on TCP, for as long as a block lasts."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(address: str, port: int, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Have the port served over TCP, for as long as it is open."""

    def until_closed() -> None:
        with contextlib.suppress(OSError):
            serve(listening)

    with socket.create_server((address, port), backlog=100) as listening:
        thread = threading.Thread(target=until_closed)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def showing(
    address: str, port: int, certificate: Path, key: Path
) -> contextlib.AbstractContextManager[None]:
    """Whoever comes is shown the certificate, and sent away."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(listening: socket.socket) -> None:
        while True:
            connection, _ = listening.accept()
            with contextlib.suppress(OSError), connection:
                context.wrap_socket(connection, server_side=True).close()

    return serving(address, port, serve)
