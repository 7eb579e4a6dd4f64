"""`everreel extend` of a film made elsewhere: stopped at any moment, it goes on with `everreel resume`."""

import pytest

from everreel.film.splice import Splice
from everreel.media import FilmWriter
from tests.film.films import natural, packets, shown, write


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "holiday.webm", natural(12, 32, 48), "libvpx-vp9", sound="libopus")


@pytest.fixture
def extend(run, tiny_folder, source):
    """Makes the source longer by 110 frames, and stops at a call of a method."""
    window = ("--overlap-history", 9, "--num-frames", 110, "--num-inference-steps", 2, "--model", tiny_folder)

    def extend(output, owner=None, name="", number=0, more=()):
        with pytest.MonkeyPatch.context() as patch:
            if owner is not None:
                method, left = getattr(owner, name), [number]

                def stopped(*arguments, **options):
                    left[0] -= 1
                    if left[0] == 0:
                        raise KeyboardInterrupt
                    return method(*arguments, **options)

                patch.setattr(owner, name, stopped)
            return run("extend", source, "-o", output, "--prompt", "a fox", *window, *more)

    return extend


def test_what_was_stopped_goes_on(run, extend, tmp_path, source):
    """In the source's part, before the first new block, and within one: the last line says how to go on."""
    whole, film = tmp_path / "whole.mp4", tmp_path / "longer.mp4"
    code, out, _ = extend(whole)
    assert code == 0 and out.startswith("the source was encoded again at ")
    assert packets(whole, "audio") == packets(source, "audio") != [] and len(shown(whole)[1]) == 12 + 110
    for owner, name, number in ((Splice, "_add", 2), (Splice, "append", 1), (Splice, "append", 6)):
        code, _, err = extend(film, owner, name, number)
        held = shown(film)[1] if film.exists() else []
        kept = f"{film} holds the source and the first new {len(held) - 12} frames" if held else "no frame was written"
        assert code == 2 and err.splitlines()[-1] == f"everreel: stopped: {kept}; go on with: everreel resume {film}"
        assert bool(held) == (number > 2) and not (tmp_path / "longer.mp4.part").exists()
        if not held:
            before = source.read_bytes()
            source.unlink()
            code, out, err = run("resume", film)
            assert (
                (code, out) == (2, "")
                and err.startswith(f"everreel: video = {source}: is gone")
                and err.count("\n") == 1
            )
            source.write_bytes(before)
        code, out, _ = run("resume", film)
        assert code == 0 and f"wrote {film}: 110 new frames" in out
        assert film.read_bytes() == whole.read_bytes()
        assert "has all of its 110 new frames" in run("resume", film)[1]
        film.unlink()
        (tmp_path / "longer.mp4.journal").unlink()


def test_a_finished_one_grows_in_place_or_elsewhere(run, extend, tmp_path, source):
    film, longer = tmp_path / "film.mp4", tmp_path / "longer.mp4"
    assert extend(film)[0] == 0
    before = film.read_bytes()
    source.unlink()
    assert run("extend", film, "-o", longer, "--num-frames", 5)[0] == 0 and film.read_bytes() == before
    code, out, _ = run("extend", film, "--num-frames", 5)
    assert code == 0 and f"wrote {film}: 115 new frames" in out
    assert film.read_bytes() == longer.read_bytes() and len(shown(film)[1]) == 12 + 115


def test_the_new_part_alone_goes_on_without_the_source(run, extend, tmp_path, source):
    whole, film = tmp_path / "whole.mp4", tmp_path / "new.mp4"
    assert extend(whole, more=["--new-part-only"])[0] == 0
    code, _, err = extend(film, FilmWriter, "append", 2, ["--new-part-only"])
    assert code == 2 and f"; go on with: everreel resume {film}" in err.splitlines()[-1]
    source.unlink()
    assert run("resume", film)[0] == 0
    assert film.read_bytes() == whole.read_bytes() and len(shown(film)[1]) == 110


def test_an_older_film_stays_until_the_first_block_comes(extend, tmp_path):
    film = tmp_path / "film.mp4"
    extend(film)
    before = film.read_bytes(), (tmp_path / "film.mp4.journal").read_bytes()
    for name in ("_add", "append"):
        code, _, err = extend(film, Splice, name, 1, ["--seed", 4])
        assert code == 2 and err.endswith("stopped: no frame was written\n")
        assert film.read_bytes() == before[0]
        assert name == "append" or (tmp_path / "film.mp4.journal").read_bytes() == before[1]


def test_a_source_named_as_the_film_is_begun_is_not_written_over(run, tmp_path, source):
    part = source.rename(tmp_path / "film.mp4.part")
    before = part.read_bytes()
    code, out, err = run("extend", part, "-o", tmp_path / "film.mp4", "--prompt", "a fox")
    assert (code, out) == (2, "") and "is begun as film.mp4.part, which is the source itself" in err
    assert part.read_bytes() == before
