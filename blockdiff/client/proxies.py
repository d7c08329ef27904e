"""What the environment says of the way to another machine: proxies, and certificates to trust.

Read here and not by httpx, which takes one bad word in `NO_PROXY` for an error without a name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import ssl
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from blockdiff.errors import EngineUnavailable

_SOCKS = "socks5://"  # what desktops call socks://
_SCHEMES = ("http", "https", "socks5", "socks5h")


def proxy_for(url: str) -> httpx.Proxy | None:
    """The proxy on the way to a URL, if there is one. Raises EngineUnavailable for a bad one."""
    parts = urlsplit(url)
    found = getproxies()  # of the environment, else those of the system
    scheme = parts.scheme if found.get(parts.scheme) else "all"
    wanted = found.get(scheme, "").strip()
    if not wanted or _bypassed(parts.hostname or "", parts.port, found.get("no", "")):
        return None
    wanted = wanted if "://" in wanted else f"http://{wanted}"
    wanted = re.sub("^socks://", _SOCKS, wanted, flags=re.IGNORECASE)
    name = _variable(f"{scheme}_proxy")
    try:
        target = urlsplit(wanted)
        usable = target.scheme.lower() in _SCHEMES and bool(target.hostname)
        usable = usable and target.port != 0  # raises for one that is no number
        proxy = httpx.Proxy(wanted) if usable else None
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None:
        raise EngineUnavailable(
            f"{name} names no proxy that can be used", "such as http://host:3128; or unset it"
        )
    if proxy.url.scheme.startswith("socks"):
        _check_socks(name)
    return proxy


def trust() -> ssl.SSLContext | bool:
    """What httpx is to verify a server by. Raises EngineUnavailable if it cannot be read."""
    check_key_log()
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if place := os.environ.get(name):
            try:
                if name == "SSL_CERT_FILE":
                    return ssl.create_default_context(cafile=place)
                folders = place.split(os.pathsep)
                if not any(map(os.path.isdir, folders)):  # OpenSSL trusts nothing then, silently
                    os.listdir(folders[0])
                return ssl.create_default_context(capath=place)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise EngineUnavailable(
                    f"cannot use the certificates that {name} names: {error}",
                    "correct or unset it, or set engine.caFile",
                ) from error
    return True


def check_key_log() -> None:
    """Raises EngineUnavailable if the file for the keys of TLS cannot be written."""
    if place := os.environ.get("SSLKEYLOGFILE"):
        try:
            open(place, "ab").close()
        except (OSError, ValueError) as error:
            raise EngineUnavailable(
                f"cannot write the keys of TLS to what SSLKEYLOGFILE names: {error}",
                "correct or unset it",
            ) from error


def _variable(name: str) -> str:
    """As it is set; in upper case where the system itself has the proxy."""
    return next((key for key in os.environ if key.lower() == name), name.upper())


def _check_socks(name: str) -> None:
    if find_spec("socksio") is None:
        raise EngineUnavailable(
            f"{name} names a SOCKS proxy, for which a library is missing",
            "pip install 'httpx[socks]', or add the engine's host to NO_PROXY",
        )


def _bypassed(host: str, port: int | None, exceptions: str) -> bool:
    """Whether `NO_PROXY` names a host: by name, as a domain above it, address or network."""
    host = host.rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for word in exceptions.replace(",", " ").split():
        word = word.lower().partition("://")[2] or word.lower()
        if word == "*":
            return True
        if address is not None:
            with contextlib.suppress(ValueError):  # a name, which is no address
                if address in ipaddress.ip_network(word.strip("[]"), False):
                    return True
        has_port = word.count(":") == 1 or "]:" in word
        name, _, wanted_port = word.rpartition(":") if has_port else (word, "", "")
        if name == "*":
            name = host
        name = name.removeprefix("*").strip(".[]")
        if wanted_port and wanted_port != str(port):
            continue
        if name and (host == name or host.endswith(f".{name}")):
            return True
    return False
