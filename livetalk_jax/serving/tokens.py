"""Who may do what: API keys for servers, and short-lived session tokens that they mint for browsers.

A token is payload.signature, both base64url; the payload is JSON {"sub": random name, "exp": seconds since 1970, "until": the same,
the last moment that a fresh one may reach}. Replicas that are given the same secret accept each other's.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Collection

from livetalk_jax.serving.errors import ServingError

LOCAL = "local"  # everybody, where no API key is set
_MAX_TOKEN = 512


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Guard:
    """Args:
    keys: API keys; none: everybody may do everything, as on a loopback address.
    secret: that tokens are signed with; None: one that ends with the process.
    """

    def __init__(self, keys: Collection[str] = (), secret: bytes | None = None, now: Callable[[], float] = time.time):
        self._keys = [key.encode() for key in keys]
        self._secret = secret or secrets.token_bytes(32)
        self._now = now

    @property
    def open(self) -> bool:
        return not self._keys

    def mint(self, seconds: int, renewable: float = 0.0) -> str:
        """A token of a new subject that is valid for `seconds`; `renew` prolongs it for `renewable` seconds more at most."""
        expires = int(self._now()) + seconds
        return self._token(secrets.token_urlsafe(9), expires, expires + int(renewable))

    def renew(self, credential: str | None, seconds: int) -> tuple[str, int]:
        """A fresh token of the same subject, and the seconds that it is valid for: `seconds`, or less towards the end of its line.

        Raises:
            ServingError: the credential is no valid session token.
        """
        if credential is None or self.open or self.is_key(credential):
            raise ServingError("bad_request", "only a session token can be renewed")
        claims = self._claims(credential)
        now = int(self._now())
        until = claims.get("until", claims["exp"])  # a replica of an older version does not say
        expires = min(now + seconds, until)
        return self._token(claims["sub"], expires, until), expires - now

    def _token(self, subject: str, expires: int, until: int) -> str:
        payload = _encode(json.dumps({"sub": subject, "exp": expires, "until": until}).encode())
        return f"{payload}.{self._sign(payload)}"

    def _sign(self, payload: str) -> str:
        return _encode(hmac.new(self._secret, payload.encode(), hashlib.sha256).digest())

    def is_key(self, credential: str | None) -> bool:
        """Whether it is an API key; every key is compared, so that time tells nothing."""
        given = (credential or "").encode("utf-8", "replace")
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0

    def who(self, credential: str | None) -> str:
        """ "key" for an API key, a token's subject, or `LOCAL`.

        Raises:
            ServingError: it is neither, or expired.
        """
        if self.open:
            return LOCAL
        if not credential:
            raise ServingError("unauthorized", "send Authorization: Bearer with an API key or a session token")
        if self.is_key(credential):
            return "key"
        return self._claims(credential)["sub"]

    def _claims(self, credential: str) -> dict:
        """What a token says, once its signature and its time are right."""
        payload, _, signature = credential.partition(".")
        if len(credential) > _MAX_TOKEN or not hmac.compare_digest(
            signature.encode("utf-8", "replace"), self._sign(payload).encode()
        ):
            raise ServingError("unauthorized", "the token was not made by this server")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        if claims["exp"] <= self._now():
            raise ServingError("unauthorized", "the token has expired; ask for another")
        return claims


def may_touch(who: str, owner: str) -> bool:
    """Whether a caller may use what another opened: an API key may use all, a token its own."""
    return who in ("key", LOCAL) or who == owner
