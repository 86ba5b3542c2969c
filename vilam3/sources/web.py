"""One image by HTTP or HTTPS: from a listed host, at a checked address, within bytes and seconds, and no further.

The name is resolved once, every address is checked, and the connection goes to the address that was checked, so that a
name that resolves differently a moment later leads nowhere. Redirects are not followed.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import httpx

from vilam3.data.limits import Limits
from vilam3.errors import DataError
from vilam3.sources.permits import DEFAULT_PORTS, HOSTS_VARIABLE, NETWORKS_VARIABLE, Permits

CONNECT_S, READ_S = 5.0, 20.0
LONGEST_URL = 4_096
FIRST_REDIRECT, FIRST_ERROR = 300, 400


def download(url: str, target: Path, *, permits: Permits, limits: Limits, where: str) -> None:
    """Write what is at a URL to a file.

    Args:
        url: ``http://`` or ``https://``.
        target: The file.
        permits: What may be fetched.
        limits: On its bytes.
        where: How messages name it; the URL itself may hold what must not be logged.

    Raises:
        DataError: it is not permitted, is not there, takes too long, or is somewhere else.
        TooLargeError: beyond the limits.
    """
    asyncio.run(_download(url, target, permits, limits, where))


async def _download(url: str, target: Path, permits: Permits, limits: Limits, where: str) -> None:
    parsed = _checked(url, permits, where)
    try:
        async with asyncio.timeout(permits.total_s):
            addresses = await _addresses(parsed, permits, where)
            async with httpx.AsyncClient(
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
                verify=_certificates(),
            ) as http:
                await _save(http, parsed, addresses, target, limits, where)
    except (TimeoutError, httpx.TimeoutException) as error:
        raise DataError(f"{where}: {parsed.host} did not send it in time; upload the image instead") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise DataError(
            f"{where}: {parsed.host} could not be read ({type(error).__name__}); check the address, or upload the image"
        ) from error


def _checked(url: str, permits: Permits, where: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url) if len(url) <= LONGEST_URL else httpx.URL("")
        host, port = parsed.raw_host.decode("ascii"), parsed.port or DEFAULT_PORTS[parsed.scheme]
    except (httpx.InvalidURL, KeyError, UnicodeError, ValueError) as error:
        raise DataError(
            f"{where}: not a URL that can be read; write it like https://images.example.org/scan.dcm"
        ) from error
    if not host:
        raise DataError(f"{where}: the URL names no host; write it like https://images.example.org/scan.dcm")
    if parsed.userinfo:
        raise DataError(f"{where}: the URL holds a user or password; images are fetched without, leave it out")
    if not permits.allows_host(host, port=port, scheme=parsed.scheme):
        raise DataError(
            f"{where}: this server fetches nothing from {host} port {port}; upload the image, or let the operator list "
            f"the host in {HOSTS_VARIABLE}"
        )
    return parsed


async def _addresses(parsed: httpx.URL, permits: Permits, where: str) -> list[str]:
    """Where the host is; only what is permitted."""
    port = parsed.port or DEFAULT_PORTS[parsed.scheme]
    host = parsed.raw_host.decode("ascii")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DataError(f"{where}: {parsed.host} is not known here; check the name") from error
    every = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [address for address in every if permits.allows_address(address)]
    if not allowed:
        raise DataError(
            f"{where}: {parsed.host} lies in a private network that this server does not fetch from; upload the image, "
            f"or let the operator list the network in {NETWORKS_VARIABLE}"
        )
    return allowed


async def _save(
    http: httpx.AsyncClient, parsed: httpx.URL, addresses: Iterable[str], target: Path, limits: Limits, where: str
) -> None:
    """From the first address that takes the connection."""
    failed: httpx.HTTPError | None = None
    for address in addresses:
        # The certificate is that of the name; only the connection goes to the address.
        request = http.build_request(
            "GET",
            parsed.copy_with(host=address),
            headers={"Host": parsed.netloc.decode("ascii"), "Accept-Encoding": "identity"},
            extensions={"sni_hostname": parsed.raw_host.decode("ascii")},
        )
        try:
            response = await http.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failed = error
            continue
        try:
            await _take(response, target, limits, where)
        finally:
            await response.aclose()
        return
    assert failed is not None  # there is at least one address
    raise failed


async def _take(response: httpx.Response, target: Path, limits: Limits, where: str) -> None:
    if FIRST_REDIRECT <= response.status_code < FIRST_ERROR:
        raise DataError(f"{where}: the image has moved elsewhere; name the address it has moved to")
    if not response.is_success:
        raise DataError(f"{where}: its host answered HTTP {response.status_code}; check the address")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise DataError(f"{where}: its host sends it packed though asked not to; upload the image instead")
    declared = response.headers.get("content-length", "")
    if declared.isdigit():
        limits.check_bytes(int(declared), where=where)
    taken = 0
    with target.open("xb") as out:
        async for chunk in response.aiter_raw():
            taken += len(chunk)
            limits.check_bytes(max(taken, 1), where=where)
            out.write(chunk)
    limits.check_bytes(taken, where=where)


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust: the system's authorities, or those of SSL_CERT_FILE."""
    return httpx.create_ssl_context()
