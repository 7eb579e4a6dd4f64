"""Short-lived addresses for what cannot send a header, such as a <video> element.

A token is `OWNER.EXPIRY.SIGNATURE`, the signature an HMAC-SHA256 over the film, the owner and the expiry, by a secret
of this home. The one invariant: it opens one film's content, stream and events, for one owner, until it expires,
which is told by time that was lived through and not by a date that somebody can set.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from everreel.serve.jobs.age import Age

LASTS = 3600  # seconds


class Tokens:
    """Signs and reads tokens."""

    def __init__(self, secret: bytes, age: Age) -> None:
        self._secret, self._age = secret, age

    @classmethod
    def of(cls, home: Path) -> Tokens:
        """With the secret of a home; there is one from now on, and only its user may read it."""
        path = home / "secret"
        home.mkdir(parents=True, exist_ok=True)
        try:
            fresh = home / f"secret.{secrets.token_hex(8)}"
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(fresh, path)  # whole or not at all, and the first of two servers wins
            finally:
                fresh.unlink()
        except FileExistsError:
            pass
        return cls(path.read_bytes(), Age(home / "age.json"))

    def sign(self, film: str, owner: str) -> str:
        """A token that opens a film for its owner, for an hour."""
        expiry = int(self._age.now() + LASTS)
        name = base64.urlsafe_b64encode(owner.encode()).decode().rstrip("=")
        return f"{name}.{expiry}.{self._signature(film, owner, expiry)}"

    def owner(self, film: str, token: str) -> str | None:
        """Whose token it is; none where it is of another film, too old, or not ours."""
        name, _, rest = token[:1000].partition(".")
        expiry, _, signature = rest.partition(".")
        if not (expiry.isascii() and expiry.isdecimal() and len(expiry) < 15 and signature.isascii()):
            return None
        try:
            owner = base64.urlsafe_b64decode(name.encode() + b"=" * (-len(name) % 4)).decode()
        except (binascii.Error, ValueError):
            return None
        whole = hmac.compare_digest(signature, self._signature(film, owner, int(expiry)))
        # One that is good for longer than any was given out is of a count that was lost since.
        return owner if whole and 0 < int(expiry) - self._age.now() <= LASTS else None

    def _signature(self, film: str, owner: str, expiry: int) -> str:
        return hmac.new(self._secret, f"{film}\n{expiry}\n{owner}".encode(), hashlib.sha256).hexdigest()
