"""The guard of the test suite itself: nothing beyond loopback, unless a test says so."""

from __future__ import annotations

import socket
import urllib.request

import pytest


@pytest.mark.parametrize("address", ("192.0.2.1", "example.com", "2001:db8::1"))
def test_connections_beyond_loopback_raise(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(0.1)
        for connect in (sock.connect, sock.connect_ex):
            with pytest.raises(RuntimeError, match="a test tried to reach"):
                connect((address, 80))


def test_names_are_not_looked_up_and_downloads_fail_loudly() -> None:
    with pytest.raises(RuntimeError, match="'example.com'.*mark it 'network'"):
        socket.getaddrinfo("example.com", 80)
    with pytest.raises(RuntimeError, match="a test tried to reach"):
        urllib.request.urlopen("http://example.com/file", timeout=0.1)


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1]), timeout=2).close()


@pytest.mark.network
def test_the_marker_lifts_the_guard() -> None:
    with socket.socket() as sock:
        sock.settimeout(0.01)
        sock.connect_ex(("192.0.2.1", 80))  # reserved for documentation: nobody is there; only the guard would raise
