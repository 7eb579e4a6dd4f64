"""Does the server keep to its own document, whatever is sent? `python -m benchmarks.contract [REQUESTS]`.

schemathesis makes requests from the OpenAPI document, right ones and wrong ones, and half of those that name a film
name one that is there. No answer may be a 500, none may have a status, a kind or a shape that the document does not
tell, and what the document forbids must be refused. A request that the document allows may be refused all the same:
rules between fields (a length in frames or in seconds, not both) cannot be said in it. And what the document forbids of
a form may arrive as something else, since all is text there and an empty list is nothing; so that is not held against
the server.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
import typer
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

REQUESTS = 20_000
WITHOUT = {"not_a_server_error", "positive_data_acceptance", "use_after_free", "ensure_resource_availability"}
"""A 501 is an answer here; see above; and the last two are about sequences of requests."""
Counts = collections.Counter[str]


def check(url: str, requests: int, films: Iterator[str], *, derandomize: bool = False) -> Counts:
    """Send at least so many requests, to every route; how often each status was answered.

    Raises:
        AssertionError: an answer is not as the document says.
    """
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    checks = [one for one in CHECKS.get_all() if one.__name__ not in WITHOUT]
    counts: Counts = collections.Counter()
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    while (missing := requests - sum(counts.values())) > 0:  # of some routes there is less to ask than of others
        each = -(-missing // len(operations) // len(modes))
        for operation in operations:
            for mode in modes:
                with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                    _send(operation, mode, each, films, checks, counts, derandomize)
    return counts


def _send(  # the types of schemathesis are its own
    operation: Any,  # noqa: ANN401
    mode: GenerationMode,
    each: int,
    films: Iterator[str],
    checks: list[Any],
    counts: Counts,
    same: bool,
) -> None:
    database = None if same else hypothesis.settings.default.database

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), known=hypothesis.strategies.booleans())
    @hypothesis.settings(
        max_examples=each,
        derandomize=same,
        database=database,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    def send(case: Any, known: bool) -> None:  # noqa: ANN401
        if known and "video_id" in (case.path_parameters or {}):
            case.path_parameters["video_id"] = next(films)
        response = case.call(timeout=60)
        counts[str(response.status_code)] += 1
        assert response.status_code in (501, 503) or response.status_code < 500, f"{case.as_curl_command()}"
        in_form = (case.media_type or "").startswith("multipart")
        fitting = [one for one in checks if not (in_form and one.__name__ == "negative_data_rejection")]
        case.validate_response(response, checks=fitting)

    send()


def main() -> None:
    """A server, and as many requests as asked for."""
    from everreel.serve.jobs.job import Limits
    from tests.serve.api.servers import Served, known_films

    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as home, Served(Path(home), limits=Limits(seconds=2)) as server:
        assert server.maker is not None
        server.maker.endless_rows = 3  # so that whoever watches a film sees its end
        counts = check(server.url, requests, known_films(server))
    seconds = time.perf_counter() - began
    told = ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))
    typer.echo(f"{sum(counts.values())} requests in {seconds:.0f} s: {told}; no answer but what the document says")


if __name__ == "__main__":
    main()
