"""What the benchmarks of the server say of their figures; they run by themselves, as they take long."""

import math
import random
from collections import Counter
from pathlib import Path

from benchmarks import full_disk, hostile, kills, live, load
from benchmarks.hostile_files import Hostile, damaged, pictures, polyglots, texts, wholes
from benchmarks.live import Watched
from benchmarks.served import put_section


def test_a_section_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "serving.md"
    put_section("load", ["first"], page)
    put_section("kills", ["other"], page)
    page.write_text(page.read_text() + "\nby hand\n")
    put_section("load", ["second"], page)
    text = page.read_text()
    assert "first" not in text and text.count("<!-- load") == 1
    assert [text.index(word) for word in ("second", "other", "by hand")] == sorted(
        text.index(word) for word in ("second", "other", "by hand")
    )


def test_hostile_files_are_the_same_from_the_same_seed() -> None:
    whole = wholes()
    made = [damaged(whole["MP4"], whole["PNG"], random.Random(seed)) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    files = [*texts("http://127.0.0.1:9/"), *polyglots("http://127.0.0.1:9/")]
    assert len({(file.kind, file.name) for file in files}) == len(files)
    assert any(file.verdict == "accepted" for file in files)
    assert next(pictures()).verdict == "refused"


def test_a_file_that_ends_otherwise_than_it_must_is_named() -> None:
    result = hostile.Result()
    result.end(Hostile("text", "a page", b"", "refused"), "refused", 1)
    result.end(Hostile("damaged PNG", "7", b"", "either"), "accepted", 2)
    assert not result.wrong
    result.end(Hostile("text", "a script", b"", "refused"), "accepted", 0.5)
    assert result.wrong == ["text, a script: accepted, must be refused"]
    text = "\n".join(hostile.section({"reader": result}, "a command"))
    assert "2 accepted, 1 refused" in text and "2.0 s, damaged PNG, 7" in text and text.count("missed") == 1


def test_films_that_are_lost_or_changed_miss_the_goal() -> None:
    good = kills.Result(asked=3, listed=3, ends=Counter(completed=3))
    assert good.good and "missed" not in "\n".join(kills.section(good, kills.Setting(), "a command"))
    for bad in (
        kills.Result(asked=3, listed=4, ends=Counter(completed=4)),
        kills.Result(asked=3, listed=3, ends=Counter(completed=2, failed=1)),
        kills.Result(asked=3, listed=3, ends=Counter(completed=3), other=["1"]),
    ):
        assert not bad.good and "missed" in "\n".join(kills.section(bad, kills.Setting(), "a command"))


def test_the_slowest_of_a_hundred_decides() -> None:
    times = load.Times(frames=17, took=10)
    times.seconds["all"] = [0.1] * 99 + [5.0]
    assert load.quantile(times.all, 0.99) == 0.1 and load.quantile(times.all, 0.5) == 0.1
    assert "missed" not in "\n".join(load.load_section(times, 50, 500, 0.5, "a command"))
    times.seconds["all"] += [5.0]
    assert load.quantile(times.all, 0.99) == 5.0
    assert "missed" in "\n".join(load.load_section(times, 50, 500, 0.5, "a command"))
    assert math.isnan(load.quantile([], 0.99))


def test_memory_that_grows_misses_the_goal() -> None:
    """What happens in the first quarter does not count."""
    soak = load.Soak(100, [float(second) for second in range(101)])
    soak.memory["server"] = [1000 + 100 * min(second, 20) for second in range(101)]
    soak.memory["workers"] = [1000 + 2 * second for second in range(101)]
    first, last, slope = soak.growth("workers")
    assert (round(first), round(last), round(slope)) == (1050, 1200, 7200)
    server, workers = (
        line for line in load.soak_section(soak, "a command") if line.startswith(("| server", "| workers"))
    )
    assert server.endswith("| met |") and workers.endswith("| **missed** |")


def test_a_stream_that_begins_too_late_is_said():
    quick, slow = (Watched(first, 1.0, 6.0, equal) for first, equal in ((0.4, True), (0.6, False)))
    told = "\n".join(live.section([quick], 241, 12, "python -m benchmarks.live"))
    assert "| within one block, 0.50 s | 0.40 s | met |" in told and "| 1 of 1 | met |" in told
    told = "\n".join(live.section([slow], 241, 12, "python -m benchmarks.live"))
    assert "| 0.60 s | **missed** |" in told and "| 0 of 1 | **missed** |" in told


def test_films_that_a_full_disk_changed_miss_the_goal() -> None:
    good = full_disk.Result(1 << 20, Counter({507: 9}), 2, Counter(completed=20), 20)
    assert "missed" not in "\n".join(full_disk.section(good, "a command"))
    bad = full_disk.Result(1 << 20, Counter({507: 8, 200: 1}), 1, Counter(completed=19, failed=1), 19)
    assert "\n".join(full_disk.section(bad, "a command")).count("**missed**") == 4
