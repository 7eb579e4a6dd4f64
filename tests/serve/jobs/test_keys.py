"""Keys: what is kept of them, who is let in, and what a running server notices."""

import hashlib
import json
import re
import threading

import pytest

from everreel.serve.jobs import keys as module
from everreel.serve.jobs.job import Owner, Quota
from everreel.serve.jobs.keys import Keys

ANNA = Owner("anna", Quota(3, 60.5, 10**10), 2)


def test_a_key_is_known_by_its_hash(tmp_path):
    keys = Keys(tmp_path)
    assert not keys.any() and keys.owner("er_") is None
    key = keys.add(ANNA)
    assert re.fullmatch(r"er_[A-Za-z0-9_-]{43}", key)
    assert keys.owner(key) == Keys(tmp_path).owner(key) == ANNA and keys.any()
    for other in ("", key[:-1], key + "x", key.upper(), key[3:], "\ud800", "x" * 10**6, "é", hash_of(key)):
        assert keys.owner(other) is None
    text = (tmp_path / "keys.json").read_text()
    assert hash_of(key) in text and key[3:] not in text
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def hash_of(key):
    return hashlib.sha256(key.encode()).hexdigest()


def test_every_key_is_compared_in_constant_time(tmp_path, monkeypatch):
    keys, compared = Keys(tmp_path), []
    made = [keys.add(Owner(f"owner-{number}")) for number in range(5)]
    compare = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    for number, key in enumerate(made):
        compared.clear()
        assert keys.owner(key).name == f"owner-{number}"
        assert [a for a, _ in compared] == [hash_of(one) for one in made] and {b for _, b in compared} == {hash_of(key)}


def test_a_running_server_notices(tmp_path):
    server, shell = Keys(tmp_path), Keys(tmp_path)
    anna, ben = shell.add(ANNA), shell.add(Owner("ben"))
    assert server.any() and server.owner(anna) == ANNA
    shell.remove("anna")
    assert server.owner(anna) is None and server.owner(ben).name == "ben"
    again = shell.add(Owner("anna"))
    assert again != anna and server.owner(again).quota == Quota() and server.owner(anna) is None
    assert [key.owner.name for key in server.list()] == ["anna", "ben"]
    shell.remove("anna")
    shell.remove("ben")
    assert server.list() == () and server.owner(ben) is None
    assert server.any(), "a server that needs keys is not opened to all by removing the last"
    assert not Keys(tmp_path).any()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"version": 2, "keys": []}', '{"version": 1, "keys": [{}]}', "[" * 9999]
)
def test_a_damaged_file_lets_nobody_in(tmp_path, text):
    server = Keys(tmp_path)
    key = server.add(ANNA)
    assert server.owner(key) == ANNA
    whole = (tmp_path / "keys.json").read_text()
    (tmp_path / "keys.json").write_text(text)
    assert server.owner(key) is None and server.any()
    for call in (lambda: Keys(tmp_path), lambda: server.add(Owner("ben")), lambda: server.remove("anna")):
        with pytest.raises(ValueError, match=r"^keys\.json: is damaged") as error:
            call()
        assert str(tmp_path) not in str(error.value)
    assert (tmp_path / "keys.json").read_text() == text
    (tmp_path / "keys.json").write_text(whole)
    assert server.owner(key) == ANNA


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "../x"), ("name", "local"), ("sha256", "short"), ("quota", {"films": "many"}), ("quota", {"x": 1}),
     ("quota", {"seconds": -1}), ("highest_priority", "2"), ("more", 1)],
)  # fmt: skip
def test_what_was_changed_by_hand_is_checked(tmp_path, field, value):
    Keys(tmp_path).add(ANNA)
    record = json.loads((tmp_path / "keys.json").read_text())
    record["keys"][0][field] = value
    (tmp_path / "keys.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is damaged"):
        Keys(tmp_path)


def test_names(tmp_path):
    keys = Keys(tmp_path)
    for name in ("a", "Anna-2_x", "9", "x" * 64):
        keys.add(Owner(name))
    rule = "must be 1 to 64 letters, digits, - and _"
    for name, works in (
        ("", "anna"), ("an na", "an-na"), ("-x", "x"), ("é", "anna"), ("a/../b", "a-b"), ("x" * 65, "x" * 64),
        ("a\n", "a"), ("\ud800", "anna"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^name = .*: {rule}.*; {works} works$"):
            keys.add(Owner(name))
    for name in ("local", "Local"):
        with pytest.raises(ValueError, match=f"name = {name}: is that of who asks without a key; {name}-1 works"):
            keys.add(Owner(name))
    with pytest.raises(ValueError, match=r"name = a: has a key already, .*: everreel keys remove a"):
        keys.add(Owner("a"))
    with pytest.raises(ValueError, match=r"name = nobody: has no key; 9, Anna-2_x, a, x+ has one"):
        keys.remove("nobody")


def test_many_add_at_once(tmp_path):
    made = {}

    def add(name):
        made[name] = Keys(tmp_path).add(Owner(name))

    threads = [threading.Thread(target=add, args=(f"owner-{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = Keys(tmp_path)
    assert len(keys.list()) == 12 and all(keys.owner(key).name == name for name, key in made.items())
