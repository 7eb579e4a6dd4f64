"""A server's address is to be had, or it is said in one line why not."""

import pytest

from everreel.web import bind


def test_a_free_port_is_found():
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", 0) as second:
        assert 0 < first.getsockname()[1] != second.getsockname()[1] > 0


@pytest.mark.parametrize("port", [70000, -1])
def test_a_port_that_is_none(port):
    with pytest.raises(ValueError, match=rf"^host = 127.0.0.1, port = {port}: .*; 127.0.0.1 with port 0 takes"):
        bind("127.0.0.1", port)


def test_a_port_that_is_taken():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port = {port}: [Aa]ddress already in use"):
            bind("127.0.0.1", port)
