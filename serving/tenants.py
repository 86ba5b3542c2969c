"""Who is asking: an API key names a tenant, and a tenant sees only its own studies and answers.

Keys are read from the file that ``VILAM3_API_KEYS_FILE`` names, one a line, ``#`` begins a comment. A key followed by
the word ``urgent``, such as an emergency department's, may ask to go before others. Without keys there is one tenant,
who may, and the server listens on loopback only.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from serving.refusals import UnauthorizedError
from vilam3.errors import UserError
from vilam3.remote import is_loopback

KEYS_VARIABLE = "VILAM3_API_KEYS_FILE"
LOCAL = "local"
SHORTEST_KEY = 16
URGENT = "urgent"
_BEARER = "bearer "


class Tenants:
    """Resolves a request to its tenant; holds digests of keys, never the keys."""

    def __init__(self, keys: Iterable[str] = (), *, urgent: Iterable[str] = ()) -> None:
        """Accept these keys, or everybody as one tenant where there are none; `urgent` ones may go before others."""
        self._urgent = frozenset(_digest(key) for key in urgent)
        self._digests = frozenset(_digest(key) for key in keys) | self._urgent

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return not self._digests

    def may_go_first(self, tenant: str) -> bool:
        """Whether a tenant's request is urgent if it says so."""
        return self.is_open or tenant in self._urgent

    def of(self, headers: Mapping[str, str]) -> str:
        """The tenant of a request.

        Args:
            headers: With lower-case names.

        Raises:
            UnauthorizedError: the key is missing or unknown.
        """
        if self.is_open:
            return LOCAL
        authorization = headers.get("authorization", "")
        if not authorization.lower().startswith(_BEARER):
            raise UnauthorizedError("Authorization: missing; send the header 'Authorization: Bearer <your API key>'")
        digest = _digest(authorization[len(_BEARER) :].strip())
        if digest not in self._digests:
            raise UnauthorizedError("Authorization: the API key is not known here; ask the operator for a key")
        return digest


def from_environment(environment: Mapping[str, str] = os.environ, *, host: str, without_keys: bool = False) -> Tenants:
    """Read the keys, if the environment names a file with keys.

    Args:
        environment: Names the file.
        host: Where the server will listen.
        without_keys: Something else decides who reaches the server, such as a network policy.

    Raises:
        UserError: the file cannot be used, or there are no keys and `host` is reachable from elsewhere.
    """
    name = environment.get(KEYS_VARIABLE, "")
    if name:
        return _read(Path(name))
    if not without_keys and not is_loopback(host):
        raise UserError(
            f"--host {host}: without API keys the server listens on loopback only; set {KEYS_VARIABLE} to a file with "
            "one key a line, use --host 127.0.0.1, or --without-keys where the network decides who gets here"
        )
    return Tenants()


def _read(path: Path) -> Tenants:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{KEYS_VARIABLE}={path}: not readable as text; name a file with one key a line") from error
    words = [line.partition("#")[0].split() for line in lines]
    keys = [(key, attributes) for key, *attributes in filter(None, words)]
    if not keys:
        raise UserError(f"{KEYS_VARIABLE}={path}: holds no key; write one a line")
    if any(len(key) < SHORTEST_KEY for key, _ in keys):
        raise UserError(f"{KEYS_VARIABLE}={path}: a key is shorter than {SHORTEST_KEY} characters; use longer ones")
    if any(attributes not in ([], [URGENT]) for _, attributes in keys):
        raise UserError(f"{KEYS_VARIABLE}={path}: after a key may stand {URGENT!r} and nothing else; mend the line")
    return Tenants((key for key, _ in keys), urgent=(key for key, attributes in keys if attributes))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
