"""Which licences the training corpus may draw on: permissive ones, and only where stated.

Everything here answers one question about text that packages carry: is it under a permissive
licence that we recognise? Unknown means no.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

_PERMISSIVE = re.compile(
    r"""(?x) ^(
        mit(-0|-cmu|-modern-variant)? | (the[ -])?(mit|expat)([ -]licen[cs]e)?(\s*\(mit\))? | x11
      | expat | hpnd | isc(l)?([ -]licen[cs]e)?
      | 0bsd | (new|modified|simplified|revised)[ -]bsd([ -]licen[cs]e)?
      | bsd([ -][\w.+ ()-]*)? | (2|3|two|three)[ -]clause[ -]bsd([ -]licen[cs]e)?
      | apache([ -]?v?2(\.0)?)? | asl[ -]?2(\.0)?
      | (the[ ])?apache([ ]software)?[ -]licen[cs]e[ ,]*(version[ ]|v)?[ -]?(2(\.0)?)?
      | apache[ -]2(\.0)?[ -]licen[cs]e
      | psf(-2\.0|l)? | python(-2\.0(\.1)?)? | cnri-python
      | python[ ]software[ ]foundation([ ]licen[cs]e)?
      | zlib(/libpng)? | libpng(-2\.0)? | unlicense | the[ ]unlicense([ ]\(unlicense\))?
      | cc0(-1\.0)? | public[ -]domain | bsl-1\.0 | boost(-1\.0)? | postgresql | curl | ncsa
      | blueoak-1\.0\.0 | wtfpl
    )$"""
)
_RESTRICTIVE = re.compile(
    r"(?i)\b(a|l)?gpl|gnu (lesser |library |affero )?(general )?public|\bmpl\b|mozilla public"
    r"|eclipse|\bepl\b|\bcddl\b|\beupl\b|sspl|busl|proprietary|commercial|creative commons|cc-by"
    r"|artistic|non-?commercial|all rights reserved by"
)
_TEXTS: tuple[tuple[str, str], ...] = (
    ("Apache-2.0", r"apache license,?\s+version 2\.0"),
    ("PSF-2.0", r"python software foundation license"),
    ("MIT", r"permission is hereby granted, free of charge"),
    ("BSD", r"redistribution and use in source and binary forms"),
    ("ISC", r"permission to use, copy, modify,? and(/or)? distribute this software"),
    ("Zlib", r"this software is provided 'as-is'"),
    ("Unlicense", r"this is free and unencumbered software"),
)
_COPYLEFT_TEXT = re.compile(
    r"(?i)gnu\s+(lesser\s+|library\s+|affero\s+)?general\s+public\s+licen[cs]e"
    r"|mozilla\s+public\s+licen[cs]e|eclipse\s+public\s+licen[cs]e"
    r"|common\s+development\s+and\s+distribution|\b[AL]?GPL(v[23]|-[23])"
)
_SPDX_LINE = re.compile(r"SPDX-License-Identifier:\s*([^\n*]+)")


def is_permissive(expression: str) -> bool:
    """Whether an SPDX-like expression can be met by permissive licences alone.

    `OR` needs one permissive side, `AND` needs all; an exception after `WITH` only widens.
    Free wording ("Apache License, Version 2.0") is understood, unknown wording is not permissive.
    """
    text = " ".join(expression.lower().replace("\n", " ").split()).strip(" .")
    if _single(text) and not re.search(r"\b(and|or)\b", text):
        return True
    tokens = [t.strip(" ,") for t in re.split(r"(\(|\)|\band\b|\bor\b|/)", text)]
    return _Expression([t for t in tokens if t]).value()


def _single(name: str) -> bool:
    name = re.sub(r"\s*\bwith [\w.-]*exceptions?$", "", name)
    return bool(_PERMISSIVE.match(name)) and not _RESTRICTIVE.search(name)


class _Expression:
    """Recursive descent over `a OR b AND (c)`; `AND` binds tighter, as SPDX has it."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0

    def value(self) -> bool:
        return bool(self._tokens) and self._either() and self._at == len(self._tokens)

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _either(self) -> bool:
        result = self._both()
        while self._peek() in ("or", "/"):
            self._at += 1
            result = self._both() or result
        return result

    def _both(self) -> bool:
        result = self._one()
        while self._peek() == "and":
            self._at += 1
            result = self._one() and result
        return result

    def _one(self) -> bool:
        token = self._peek()
        self._at += 1
        if token != "(":
            return _single(token)
        result = self._either()
        closed = self._peek() == ")"
        self._at += 1
        return result and closed


def from_text(text: str) -> str:
    """Name of the permissive licence whose text this is, "" when unknown or mixed with copyleft."""
    if _COPYLEFT_TEXT.search(text):
        return ""
    flat = " ".join(text.lower().split())
    return next((name for name, pattern in _TEXTS if re.search(pattern, flat)), "")


def from_metadata(
    expression: str, field: str, classifiers: list[str], texts: list[str]
) -> tuple[str, bool]:
    """What a Python distribution says of itself: (licence as stated, whether permissive).

    Args:
        expression: the `License-Expression` field; decides alone when present.
        field: the free `License` field, a name or a whole text.
        classifiers: every `License ::` trove classifier.
        texts: contents of its licence files, asked only when nothing else is stated.
    """
    if expression:
        return expression, is_permissive(expression)
    names = [c.rsplit("::", 1)[-1].strip() for c in classifiers]
    names = [n for n in names if n not in ("OSI Approved", "DFSG approved", "License")]
    if any(_RESTRICTIVE.search(n) for n in names):
        return " AND ".join(names), False
    if len(field) > 120:
        field = from_text(field)
    if field and field.lower() not in ("unknown", "dual license"):
        return field, is_permissive(field)
    if names:
        return " OR ".join(names), any(is_permissive(n) for n in names)
    found = [from_text(t) for t in texts]
    return " AND ".join(sorted({f for f in found if f})), bool(found) and all(found)


def header_allows(head: str) -> bool:
    """Whether the top of a source file permits its use: no copyleft notice, no foreign SPDX tag."""
    spdx = _SPDX_LINE.search(head)
    if spdx and not is_permissive(spdx.group(1).strip().rstrip("/->").strip()):
        return False
    return not _COPYLEFT_TEXT.search(head)


@dataclass(frozen=True, slots=True)
class DebianCopyright:
    """A machine-readable `copyright` file (DEP-5): file patterns and the licence of each."""

    stanzas: tuple[tuple[tuple[str, ...], str], ...]

    @classmethod
    def parse(cls, text: str) -> DebianCopyright:
        """Reads the `Files:` stanzas; a file in free wording counts as one stanza for `*`."""
        if not text.lstrip().lower().startswith("format"):
            return cls(((("*",), from_text(text) or "unknown"),))
        stanzas = []
        for block in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", block))
            lower = {k.lower(): v for k, v in fields.items()}
            if "files" in lower:
                licence = (lower.get("license", "").splitlines() or [""])[0].strip()
                stanzas.append((tuple(lower["files"].split()), licence or "unknown"))
        return cls(tuple(stanzas))

    def licence_of(self, path: str) -> str:
        """Licence of a path inside the source tree: the last stanza that matches, as DEP-5 says."""
        found = "unknown"
        for patterns, licence in self.stanzas:
            if any(p == "*" or fnmatch.fnmatchcase(path, p) for p in patterns):
                found = licence
        return found

    def whole(self) -> str:
        """One expression for everything but the packaging itself, for trees laid out anew."""
        names = {
            licence
            for patterns, licence in self.stanzas
            if not all(p.startswith("debian/") for p in patterns)
        }
        return " AND ".join(f"({n})" if " " in n else n for n in sorted(names)) or "unknown"
