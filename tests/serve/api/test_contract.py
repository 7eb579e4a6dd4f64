"""The server keeps to its own document; `python -m benchmarks.contract` sends many more."""

import pytest

pytest.importorskip("schemathesis")

from benchmarks.contract import check
from tests.serve.api.servers import known_films


def test_every_answer_is_one_that_the_document_tells(serve):
    server = serve()
    counts = check(server.url, 150, known_films(server), derandomize=True)
    assert sum(counts.values()) > 100 and {"200", "400", "404"} <= set(counts)
