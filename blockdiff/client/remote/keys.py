"""Where the key of a backend comes from: the environment or the system's keyring, nowhere else.

A key belongs to a host. Those variables that a vendor named are for the vendor's own hosts, so that
another URL in the settings cannot draw one out; every other host gets `BLOCKDIFF_API_KEY`.

    keyring set blockdiff https://api.mistral.ai
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from blockdiff.errors import InvalidRequest

SERVICE = "blockdiff"
ANY_HOST = "BLOCKDIFF_API_KEY"
VARIABLES = {
    "api.openai.com": "OPENAI_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "codestral.mistral.ai": "CODESTRAL_API_KEY",
    "api.inceptionlabs.ai": "INCEPTION_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
}


@dataclass(frozen=True, slots=True)
class Key:
    """Attributes:
    value: the key itself; empty: there is none.
    source: where it was found or, if it was not, where it was looked for.
    """

    value: str = field(default="", repr=False)
    source: str = ""

    def hidden_in(self, text: str) -> str:
        """A text with the key blotted out."""
        return text.replace(self.value, "(the key)") if self.value else text


def needs_key(origin: str) -> bool:
    """Whether the host is a vendor's, where nothing goes without one."""
    return urlsplit(origin).hostname in VARIABLES


def find(origin: str) -> Key:
    """The key for a host, `https://host:port`; may wait for the user to unlock the keyring.

    Raises InvalidRequest for one that cannot stand in a header.
    """
    variable = VARIABLES.get(urlsplit(origin).hostname or "", ANY_HOST)
    key = Key(os.environ.get(variable, "").strip(), variable)
    if not key.value:
        key = _in_keyring(origin, variable)
    plain = key.value.isascii() and key.value.isprintable() and " " not in key.value
    if not plain:
        raise InvalidRequest(f"the key in {key.source} is not one word of ASCII", "set it anew")
    return key


def hint(origin: str) -> str:
    """How to give a key."""
    variable = VARIABLES.get(urlsplit(origin).hostname or "", ANY_HOST)
    return f"set {variable} where the editor starts, or: keyring set {SERVICE} {origin}"


def _in_keyring(origin: str, variable: str) -> Key:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return Key("", f"{variable}; no keyring: pip install 'blockdiff[keyring]'")
    try:
        found = keyring.get_password(SERVICE, origin)
    except KeyringError as error:
        return Key("", f"{variable}; no keyring: {type(error).__name__}")
    except Exception as error:  # whatever a library of the system raises behind it
        return Key("", f"{variable}; the keyring fails: {type(error).__name__}")
    return Key((found or "").strip(), "the keyring" if found else f"{variable} and the keyring")
