# SPDX-License-Identifier: Apache-2.0
"""Who may reach the page: where it is served, what every answer forbids, and who asks.

The page is served to this machine alone unless a token and TLS are given. Requests that a foreign
page makes in the same browser are told by their Origin, and names that were made to point at this
machine (DNS rebinding) by their Host.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from spine_nav_common.parameters import ParameterError

DEFAULT_HOST, DEFAULT_PORT, IGTL_PORT, FOXGLOVE_PORT = "127.0.0.1", 8760, 18944, 8765
COOKIE = "spinenav"
_LEAST_TOKEN = 16
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer: no third party is asked for anything, and no foreign page frames this one."""


@dataclass(frozen=True)
class Exposure:
    """Where the page is served. token and both files of TLS: for any host but this machine's own.

    token: what a browser must show; "" = none is asked for.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str = ""
    certificate: Path | None = None
    key: Path | None = None

    @property
    def tls(self) -> bool:
        """Whether the page is served over TLS."""
        return self.certificate is not None and self.key is not None

    def url(self, port: int) -> str:
        """What to type into the browser; port: the one that was bound."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{port}/"

    def may_ask(self, host: str | None, origin: str | None) -> bool:
        """Whether a request with these headers comes from our own page or an address bar."""
        if not host:
            return False
        if is_loopback(self.host) and urlsplit(f"//{host}").hostname not in (
            *(n.strip("[]") for n in _LOCAL_NAMES),
            self.host,
        ):
            return False
        return origin is None or urlsplit(origin).netloc == host

    def token_fits(self, given: str | None) -> bool:
        """Whether a token, where one is asked for, is the right one."""
        return not self.token or hmac.compare_digest((given or "").encode(), self.token.encode())


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exposure(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    token_file: str = "",
    certificate: str = "",
    key: str = "",
) -> Exposure:
    """Checked settings.

    Raises:
        ParameterError: a host that is not this machine's own without token and TLS; a file that
            cannot be read; a token that is too short; one file of TLS without the other.
    """
    token = _text(token_file, "token_file").strip() if token_file else ""
    if token_file and len(token) < _LEAST_TOKEN:
        raise ParameterError(
            f"display.token_file: {token_file} holds {len(token)} characters; give at least"
            f" {_LEAST_TOKEN}, for example: openssl rand -hex 16 > {token_file}"
        )
    if bool(certificate) != bool(key):
        lacks = "tls_key" if certificate else "tls_certificate"
        raise ParameterError(f"display.{lacks} is missing; TLS needs certificate and key")
    for name, file in (("tls_certificate", certificate), ("tls_key", key)):
        if file:
            _text(file, name)
    if not is_loopback(host) and not (token and certificate):
        raise ParameterError(
            f"display.host is {host}: the page leaves this machine only with display.token_file,"
            " display.tls_certificate and display.tls_key; or leave the host at 127.0.0.1"
        )
    return Exposure(
        host,
        port,
        token,
        Path(certificate) if certificate else None,
        Path(key) if key else None,
    )


def check_display(values: Mapping[str, object]) -> None:
    """The display's parameters before its node is started. Raises ParameterError; see `exposure`."""
    names = ("host", "port", "token_file")
    given = {name: values[name] for name in names if name in values}
    given |= {n: values[f"tls_{n}"] for n in ("certificate", "key") if f"tls_{n}" in values}
    wanted = exposure(**given)  # type: ignore[arg-type]
    try:
        try_port(wanted.host, wanted.port)
    except OSError as error:
        raise ParameterError(taken_port(wanted, error)) from error


def try_port(host: str, port: int) -> None:
    """Raises OSError where this address cannot be served now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def free_port(preferred: int = DEFAULT_PORT) -> int:
    """A port of this machine that a page can be served at now: the preferred one, or another."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((DEFAULT_HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ParameterError("no port of this machine is free")


def taken_port(wanted: Exposure, error: OSError) -> str:
    """What to do about an address that cannot be served."""
    return (
        f"display.port: {wanted.host}:{wanted.port} cannot be served ({error.strerror or error});"
        " give another port (--port N)"
    )


def _text(file: str, name: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"display.{name}: {file} cannot be read ({error})") from error
