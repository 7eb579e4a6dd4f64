"""`everreel keys`: made, listed, removed; what is refused."""

import pytest

from everreel.serve.jobs.job import Owner, Quota
from everreel.serve.jobs.keys import Keys


def test_keys_are_made_listed_and_removed(run, tmp_path):
    home = ("--home", tmp_path / "home")
    code, key, said = run("keys", "add", "anna", "--films", 3, "--seconds", 90, "--size", "10GB",
                          "--highest-priority", 2, *home)  # fmt: skip
    described = "anna: 3 films, 90 s of film, 10 GB, priority up to 2"
    assert (code, said) == (0, f"the key of {described}; it is not shown again\n")
    owner = Keys(tmp_path / "home").owner(key.rstrip("\n"))
    assert owner == Owner("anna", Quota(3, 90, 10**10), 2)
    assert run("keys", "add", "ben", *home)[0] == 0
    code, out, said = run("keys", "list", *home)
    assert (code, out, said) == (0, f"{described}\nben: without a limit\n", "")
    assert run("keys", "remove", "anna", *home) == (0, "anna has no key any more\n", "")
    assert Keys(tmp_path / "home").owner(key.rstrip("\n")) is None
    assert run("keys", "remove", "ben", *home)[0] == 0
    assert run("keys", "list", *home) == (0, "", "nobody has a key; everreel keys add NAME makes one\n")


def test_the_usual_home(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    code, key, _ = run("keys", "add", "anna")
    assert code == 0 and Keys(tmp_path / "everreel").owner(key.strip()).name == "anna"
    assert (tmp_path / "everreel").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["an na"], "name = 'an na': must be 1 to 64 letters, digits, - and _, and begin with a letter or a digit; "
                    "an-na works"),
        (["local"], "name = local: is that of who asks without a key; local-1 works"),
        (["anna", "--films", "0"], "films = 0: must be at least 1; leave it out for as many as they like"),
        (["anna", "--seconds", "nan"], "seconds = nan: must be more than 0; leave it out for as much as they like"),
        (["anna", "--size", "much"], "size = 'much': must be an amount of bytes; 10GB works"),
        (["anna", "--size", "0.1"], "size = '0.1': must be an amount of bytes; 10GB works"),
        (["anna", "--size", "9e999"], "size = '9e999': must be an amount of bytes; 10GB works"),
        (["anna", "--highest-priority", "-1"], "highest_priority = -1: must be 0 to 1000; nearest that works: 0"),
    ],
)  # fmt: skip
def test_what_is_refused(run, tmp_path, arguments, words):
    assert run("keys", "add", *arguments, "--home", tmp_path / "home") == (2, "", f"everreel: {words}\n")
    assert not (tmp_path / "home").exists()


def test_a_name_is_used_once(run, tmp_path):
    run("keys", "add", "anna", "--home", tmp_path)
    code, out, said = run("keys", "add", "anna", "--home", tmp_path)
    assert (code, out) == (2, "") and said.endswith("remove it first: everreel keys remove anna\n")
    assert run("keys", "remove", "ben", "--home", tmp_path)[2] == "everreel: name = ben: has no key; anna has one\n"
