"""Files that a request names by an address: fetched, where the server allows it, from public addresses only.

A name is resolved once, and the connection goes to an address that was looked at, so no second answer of a name server
counts. The one invariant: nothing is sent to an address that `is_public` has not seen, at no redirect either, and what
was refused is said in the same words as what is not there; so no request learns anything of the network around here.

No proxy is asked, no cookie and no password is sent, and the server's word for what it sends is not believed: it is
bytes in a file, for `uploads` to look at.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import re
import secrets
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from everreel.film.request import RequestError
from everreel.serve.jobs.job import DiskFullError, Limits

PORTS = {"http": 80, "https": 443}
MOST_REDIRECTS = 3
SECONDS = 20.0  # for all of it, names and redirects too
LONGEST = 2000  # characters of an address
CHUNK_BYTES = 1 << 16
_GONE = "url: no file can be fetched from there; give a public http or https address, or send the file itself"
_IPV4_NEVER = ipaddress.ip_network("192.0.0.0/24")
_IPV6_GLOBAL, _6TO4, _TEREDO = map(ipaddress.ip_network, ("2000::/3", "2002::/16", "2001::/32"))


def fetch_file(url: str, limits: Limits, into: Path) -> Path:
    """A new file in the folder `into` with what is at an address; it is not looked at yet.

    Raises:
        RequestError: the address cannot be fetched from, or there is too much; in one line that names neither.
        DiskFullError: there is no room for it here.
    """
    ends = time.monotonic() + SECONDS
    for _ in range(MOST_REDIRECTS + 1):
        parts = _checked(url)
        found = _exchange(parts, _connected(parts, ends), limits, into, ends)
        if isinstance(found, Path):
            return found
        url = urljoin(url, found)
    raise RequestError(f"url: leads to another address more than {MOST_REDIRECTS} times; give the last of them")


def data_file(url: str, limits: Limits, into: Path) -> Path:
    """A new file in the folder `into` with what a `data:` address holds; it is not looked at yet.

    Raises:
        RequestError: it is none, or there is too much.
    """
    head, comma, body = url.partition(",")
    if not comma or not re.fullmatch(r"data:[\w.+/-]{0,80}(?:;[\w.+=-]{1,80}){0,4}", head, re.ASCII | re.IGNORECASE):
        raise RequestError("url: is no data: address; data:image/png;base64,... works")
    if len(body) > 3 * limits.upload_bytes:
        raise RequestError(f"url: holds too much; at most {limits.upload_bytes} bytes work")
    data = unquote_to_bytes(body)
    if head.lower().endswith(";base64"):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error:
            raise RequestError("url: is not base64; data:image/png;base64,... works") from None
    if len(data) > limits.upload_bytes:
        raise RequestError(f"url = {len(data)} bytes: holds too much; at most {limits.upload_bytes} bytes work")
    path = into / secrets.token_hex(8)
    path.write_bytes(data)
    return path


def is_public(address: str) -> bool:
    """Whether anybody in the world means the same machine by it, and no way through this network hides in it."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found not in _IPV6_GLOBAL or found in _6TO4 or found in _TEREDO:
            return False
    elif found in _IPV4_NEVER:
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _checked(url: str) -> SplitResult:
    """An address of which every reader takes the same parts. Raises: RequestError."""
    if len(url) > LONGEST or not re.fullmatch(r"[!#-;=?-\[\]_a-z~%]+", url, re.IGNORECASE):
        raise RequestError(
            f"url: must be at most {LONGEST} characters of ASCII, without spaces, quotes and backslashes"
        )
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise RequestError(_GONE) from None
    if scheme not in PORTS or not host:
        raise RequestError("url: must begin with http:// or https://, and name a host")
    if "@" in parts.netloc:
        raise RequestError("url: must be without a name and a password")
    if port not in (None, PORTS[scheme]):
        raise RequestError(f"url: must be without a port; {scheme} has its own")
    return parts


def _connected(parts: SplitResult, ends: float) -> socket.socket:
    """A connection to an address that was looked at. Raises: RequestError."""
    assert parts.hostname
    port = PORTS[parts.scheme]
    addresses = _resolved(parts.hostname, port, ends)
    if not addresses or not all(map(is_public, addresses)):
        raise RequestError(_GONE)
    for address in addresses:
        left = ends - time.monotonic()
        with suppress(OSError):
            if left > 0:
                return socket.create_connection((address, port), left / 2)
    raise RequestError(_GONE)


def _resolved(host: str, port: int, ends: float) -> list[str]:
    """All addresses of a host. The system's resolver knows no time limit, so it is left alone when time is up."""
    found: list[str] = []

    def ask() -> None:
        with suppress(OSError, UnicodeError):
            found.extend(str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(max(ends - time.monotonic(), 0))
    return [] if thread.is_alive() else list(dict.fromkeys(found))


def _exchange(parts: SplitResult, sock: socket.socket, limits: Limits, into: Path, ends: float) -> Path | str:
    """A file with what is there, or the address where it is to be had. Raises: RequestError."""
    if parts.scheme == "https":  # certificates are those of the host that was named
        import httpx2

        tls = httpx2.create_ssl_context(trust_env=False)
        sock = tls.wrap_socket(sock, server_hostname=parts.hostname, do_handshake_on_connect=False)
    # A server that sends a byte now and then keeps no one here: when time is up the connection is cut.
    timer = threading.Timer(max(ends - time.monotonic(), 0), _cut, (sock,))
    timer.start()
    try:
        sock.settimeout(SECONDS)
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        return _answer(parts, sock, limits, into, ends)
    except (RequestError, DiskFullError):
        raise
    except (OSError, http.client.HTTPException, ValueError):
        raise RequestError(_GONE) from None
    finally:
        timer.cancel()
        sock.close()


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # also below TLS, which would wait for a goodbye


def _answer(parts: SplitResult, sock: socket.socket, limits: Limits, into: Path, ends: float) -> Path | str:
    """See `_exchange`.

    Raises:
        RequestError: there is too much.
        OSError, HTTPException, ValueError: there is no answer to make anything of.
    """
    connection = http.client.HTTPConnection(parts.hostname or "", PORTS[parts.scheme])
    connection.sock, connection.auto_open = sock, 0
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    connection.request("GET", path, headers={"Host": parts.netloc, "User-Agent": "everreel"})
    with connection.getresponse() as response:
        if response.status in (301, 302, 303, 307, 308):
            return response.headers.get("Location", "")
        if response.status != 200 or response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ValueError("no file")
        file = into / secrets.token_hex(8)
        try:
            with file.open("xb", buffering=0) as out:
                _copy(response, out, limits.upload_bytes, ends)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
    return file


def _copy(response: http.client.HTTPResponse, out: IO[bytes], most: int, ends: float) -> None:
    count = 0
    while chunk := response.read(CHUNK_BYTES):
        count += len(chunk)
        if count > most:
            raise RequestError(f"url: more than {most} bytes come from there; a smaller file works")
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[out.write(rest) :]
        except OSError:
            raise DiskFullError("url: this server's disk is full; try again later") from None
    if time.monotonic() > ends or not count or response.length:  # of what it said it would send
        raise ValueError("cut off")
