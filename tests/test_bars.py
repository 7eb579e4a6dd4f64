"""Progress: the lines that a log gets."""

import pytest

from everreel import bars
from everreel.bars import films_bar, pieces_bar


@pytest.mark.parametrize(("seconds", "told"), [(0.5, [0, 20, 40, 50]), (11.0, list(range(51)))])
def test_a_log_has_a_line_a_film_but_no_more_than_one_in_ten_seconds(monkeypatch, capsys, seconds, told):
    now = 100.0
    monkeypatch.setattr(bars.time, "monotonic", lambda: now)
    with films_bar() as on_film:
        for done in range(51):
            on_film(done, 50)
            now += seconds
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"film {done}/50" for done in told]


def test_of_pieces_that_are_not_told_one_by_one_a_log_has_the_last(capsys):
    with pieces_bar("file") as on_file:
        for done in range(4):
            on_file(done, 3)
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["file 3/3"]
