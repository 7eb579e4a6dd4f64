"""Does the server keep to its own document, whatever is sent? `python -m benchmarks.contract --requests 20000`.

schemathesis makes requests from the OpenAPI document, right ones and wrong ones, and half of those that name a film
name one that is there. No answer may be a 500, none may have a status, a kind or a shape that the document does not
tell, and what the document forbids must be refused. A request that the document allows may be refused all the same:
rules between fields (a length in frames or in seconds, not both) cannot be said in it. And what the document forbids of
a form may arrive as something else, since all is text there and an empty list is nothing; so that is not held against
the server.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from benchmarks.measure import machine, say
from benchmarks.served import PAGE, put_section
from everreel.evaluate.markdown import paragraph, table, verdict

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


def section(counts: Counts, seconds: float, command: str) -> list[str]:
    """For the page."""
    answers = ", ".join(f"{count:,} of {status}" for status, count in sorted(counts.items()))
    return [
        "## Whatever is sent",
        "",
        *paragraph(
            "Requests that schemathesis makes of the OpenAPI document, right ones and wrong ones, to every route. No"
            " answer may be a 500, nor have a status, a kind or a shape that the document does not tell: the first ends"
            " the run, and no figures are written. What a schema cannot say, rules between fields, is left out, and so"
            " are sequences of requests."
        ),
        "",
        *table(
            ("what", "goal", "measured", ""),
            [
                ("requests", f"{REQUESTS:,}", f"{sum(counts.values()):,} in {seconds:.0f} s",
                 verdict(sum(counts.values()) >= REQUESTS)),
                ("answers of 500", "none", str(counts["500"]), verdict(not counts["500"])),
                ("answers", "", answers, ""),
            ],
        ),
        "",
        f"    {command}",
        "",
        *table(("machine", ""), machine().items()),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """A server, and as many requests as asked for; the first wrong answer ends it."""
    from everreel.serve.jobs.job import Limits
    from tests.serve.api.servers import Served, known_films

    parser = argparse.ArgumentParser(prog="python -m benchmarks.contract")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as home, Served(Path(home), limits=Limits(seconds=2)) as server:
        assert server.maker is not None
        server.maker.endless_rows = 3  # so that whoever watches a film sees its end
        counts = check(server.url, options.requests, known_films(server))
    command = f"python -m benchmarks.contract --requests {options.requests}"
    lines = section(counts, time.perf_counter() - began, command)
    say("\n".join(lines))
    if options.write:
        put_section("contract", lines)


if __name__ == "__main__":
    main()
