"""Fetching a picture: only from public addresses, to the address that was looked at, and never for long."""

import base64
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from everreel.film.request import RequestError
from everreel.serve.jobs import fetch
from everreel.serve.jobs.fetch import data_file, fetch_file, is_public
from everreel.serve.jobs.job import Limits

HERE = Limits(upload_bytes=100_000)
PICTURE = bytes(range(256)) * 30
GONE = "^url: no file can be fetched from there; give a public http or https address, or send the file itself$"


class Site(http.server.BaseHTTPRequestHandler):
    """Answers by the path; what was asked for is kept."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, dict[str, str]]]]

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers)))
        getattr(self, self.path.strip("/").split("?")[0], self.missing)()

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def missing(self) -> None:
        self.send(404)

    def picture(self) -> None:
        self.send(200, PICTURE, Content_Type="text/html")

    def large(self) -> None:
        self.send(200, bytes(100_001))

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(10_000))

    def packed(self) -> None:
        self.send(200, PICTURE, Content_Encoding="gzip")

    def nothing(self) -> None:
        self.send(200)

    def cut(self) -> None:
        self.send(200, PICTURE, Content_Length="9000")
        self.close_connection = True

    def there(self) -> None:
        self.send(302, Location="/picture?size=2")

    def round(self) -> None:
        self.send(302, Location="/round")

    def inside(self) -> None:
        self.send(302, Location="http://inside.test/picture")

    def strange(self) -> None:
        self.send(302, Location="file:///etc/passwd")

    def slow(self) -> None:
        """A byte of the header now and then, as long as somebody listens."""
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000:
            self.wfile.write(bytes([byte]))
            if self.server.stop.wait(0.02):  # type: ignore[attr-defined]
                return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Site]]:
    """A server here, which the names shop.test and inside.test lead to; only the first is taken for public."""

    class Here(Site):
        asked: ClassVar[list[tuple[str, dict[str, str]]]] = []

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Here)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.stop = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    # Addresses are names of themselves: connections are made through the same function.
    names = {
        "127.0.0.1": ["127.0.0.1"],
        "shop.test": ["127.0.0.1"],
        "inside.test": ["10.0.0.1"],
        "both.test": ["127.0.0.1", "10.0.0.1"],
    }

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host not in names:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(fetch, "PORTS", {"http": server.server_port, "https": server.server_port})
    monkeypatch.setattr(fetch, "is_public", "127.0.0.1".__eq__)
    yield Here
    server.stop.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_picture_is_fetched_without_telling_anything(
    site: type[Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    path = fetch_file("http://shop.test/picture?a=b", HERE, tmp_path)
    assert path.read_bytes() == PICTURE and path.parent == tmp_path
    [(asked, headers)] = site.asked
    assert asked == "/picture?a=b"
    assert headers == {"Host": "shop.test", "User-Agent": "everreel", "Accept-Encoding": "identity"}


def test_what_is_elsewhere_is_followed(site: type[Site], tmp_path: Path) -> None:
    assert fetch_file("http://shop.test/there", HERE, tmp_path).read_bytes() == PICTURE
    assert [path for path, _ in site.asked] == ["/there", "/picture?size=2"]
    with pytest.raises(RequestError, match=r"more than 3 times"):
        fetch_file("http://shop.test/round", HERE, tmp_path)
    assert [path for path, _ in site.asked[2:]] == ["/round"] * 4


@pytest.mark.parametrize("path", ["missing", "packed", "nothing", "cut", "inside"])
def test_what_is_no_picture_leaves_nothing(site: type[Site], tmp_path: Path, path: str) -> None:
    with pytest.raises(RequestError, match=GONE):
        fetch_file(f"http://shop.test/{path}", HERE, tmp_path)
    assert not list(tmp_path.iterdir()) and len(site.asked) == 1


def test_a_redirect_to_a_file_is_not_followed(site: type[Site], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^url: must begin with http:// or https://"):
        fetch_file("http://shop.test/strange", HERE, tmp_path)


@pytest.mark.parametrize("host", ["inside.test", "both.test", "nowhere.test"])
def test_a_name_with_an_address_that_is_not_public_is_as_none(site: type[Site], tmp_path: Path, host: str) -> None:
    with pytest.raises(RequestError, match=GONE):
        fetch_file(f"http://{host}/picture", HERE, tmp_path)
    assert not site.asked


def test_a_name_that_changes_its_address_is_asked_once(
    site: type[Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second answer of the name server would lead elsewhere."""
    resolve, asked = socket.getaddrinfo, []

    def change(host: str, *more: object, **rest: object) -> object:
        asked.append(host)
        again = host == "shop.test" and asked.count(host) > 1
        return resolve("inside.test" if again else host, *more, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", change)
    assert fetch_file("http://shop.test/picture", HERE, tmp_path).read_bytes() == PICTURE
    assert asked.count("shop.test") == 1


@pytest.mark.parametrize("path", ["large", "endless"])
def test_too_much_is_not_kept(site: type[Site], tmp_path: Path, path: str) -> None:
    with pytest.raises(RequestError, match=r"^url: more than 100000 bytes come from there; a smaller file works$"):
        fetch_file(f"http://shop.test/{path}", HERE, tmp_path)
    assert not list(tmp_path.iterdir())


def test_who_sends_a_byte_now_and_then_is_cut_off(
    site: type[Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "SECONDS", 0.3)
    with pytest.raises(RequestError, match=GONE):
        fetch_file("http://shop.test/slow", HERE, tmp_path)


def test_a_name_server_that_never_answers_is_not_waited_for(
    site: type[Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(fetch, "SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(20) and [])
    with pytest.raises(RequestError, match=GONE):
        fetch_file("http://shop.test/picture", HERE, tmp_path)
    answer.set()


def test_tls_is_spoken_where_the_address_says_so(site: type[Site], tmp_path: Path) -> None:
    """The server here speaks none, so nothing may come of it, and no request may go out in the clear."""
    with pytest.raises(RequestError, match=GONE):
        fetch_file("https://shop.test/picture", HERE, tmp_path)
    assert not site.asked


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://shop.test/picture",
        "gopher://shop.test/picture",
        "//shop.test/picture",
        "shop.test/picture",
        "http://",
        "http:///picture",
        "http://shop.test:22/picture",
        "http://shop.test:99999/",
        "http://name:word@shop.test/picture",
        "http://shop.test@inside.test/picture",
        "http://shop.test\\@inside.test/picture",
        "http://shop.test/a b",
        "http://shop.test/\r\nHost: inside.test",
        "http://[::1/picture",
        "http://shöp.test/picture",
        "http://shop.test/" + "a" * 3000,
        "",
    ],
)
def test_other_addresses_are_refused_before_anything_is_asked(site: type[Site], tmp_path: Path, url: str) -> None:
    with pytest.raises(RequestError, match=r"^url: [^\n]+$"):
        fetch_file(url, HERE, tmp_path)
    assert not site.asked


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"],
)
def test_this_machine_is_not_public_however_it_is_written(tmp_path: Path, host: str) -> None:
    """With the system's own resolver."""
    with pytest.raises(RequestError, match=GONE):
        fetch_file(f"http://{host}/", HERE, tmp_path)


PRIVATE = """
0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.127.255.254 127.0.0.1 127.255.0.1 169.254.169.254 172.16.0.1
172.31.255.255 192.0.0.8 192.0.2.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 224.0.1.1 239.1.1.1
240.0.0.1 255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:100.64.0.1 64:ff9b::7f00:1
64:ff9b:1::1 100::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 2002:7f00:1:: fc00::1 fd12:3456::1 fe80::1
fe80::1%eth0 fec0::1 ff02::1 ff0e::1
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_no_address_of_a_network_of_ones_own_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "::ffff:8.8.8.8", "2606:4700:4700::1111"])
def test_addresses_of_the_world_are_public(address: str) -> None:
    assert is_public(address)


def test_a_data_address_holds_the_picture_itself(tmp_path: Path) -> None:
    coded = base64.b64encode(PICTURE).decode()
    for url in (f"data:image/png;base64,{coded}", f"DATA:;BASE64,{coded}", f"data:image/png;a=b;base64,{coded}"):
        path = data_file(url, HERE, tmp_path)
        assert path.read_bytes() == PICTURE and path.parent == tmp_path
    assert data_file("data:image/svg+xml,%3Csvg/%3E", HERE, tmp_path).read_bytes() == b"<svg/>"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("data:image/png;base64", "is no data: address"),
        ("date:image/png;base64,AAAA", "is no data: address"),
        ("data:image/png;base64\n,AAAA", "is no data: address"),
        ("data:image/png;base64,AAA", "is not base64"),
        ("data:image/png;base64,A-_A", "is not base64"),
        ("data:image/png;base64," + "A" * 133_340, "100005 bytes: holds too much"),
        ("data:," + "a" * 400_000, "holds too much"),
    ],
)
def test_a_data_address_that_is_none_is_refused(tmp_path: Path, url: str, rule: str) -> None:
    with pytest.raises(RequestError, match=rf"^url(?: = |: ){rule}[^\n]*$"):
        data_file(url, HERE, tmp_path)
    assert not list(tmp_path.iterdir())
