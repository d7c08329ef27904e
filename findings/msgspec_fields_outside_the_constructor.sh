#!/usr/bin/env bash
# msgspec takes from its input what a dataclass keeps out of its constructor, and insists on it.
#
# `field(init=False)` marks what is not for callers to give: a cache, a count, a value that `__post_init__` derives.
# The constructor refuses such an argument, and cattrs and pydantic leave such a key of the input unread. So one
# expects msgspec, which decodes dataclasses natively, to do likewise. It treats the field as any other: a
# value in the input wins over the default, a field without a default is required although `__post_init__` sets it
# in a moment, and the JSON schema lists both. Nothing in the documentation of dataclasses there speaks of it.
#
# Seen on 2026-11-28 with msgspec 0.22.0 beside cattrs 26.2.1 and pydantic 2.14.3, on CPython 3.11.
#
# Why it matters here: settings and the bodies of requests are read into dataclasses by it, and the
# annotations are their schema. A field for the program's own use in one of them would be open to the sender.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  msgspec==0.22.0 cattrs==26.2.1 pydantic==2.14.3
"$folder/venv/bin/python" - <<'PY'
import sys
from dataclasses import dataclass, field

import cattrs
import msgspec
import pydantic


@dataclass
class Draft:
    text: str
    tries: int = field(init=False, default=0)


@dataclass
class Measured:
    text: str
    length: int = field(init=False)

    def __post_init__(self):
        self.length = len(self.text)


READERS = {
    "msgspec": msgspec.convert,
    "cattrs": cattrs.structure,
    "pydantic": lambda value, kind: pydantic.TypeAdapter(kind).validate_python(value),
}
try:
    Draft("a = 1", tries=7)
    refused = False
except TypeError as error:
    print("constructor:", error)
    refused = True
tries, lengths = {}, {}
for name, read in READERS.items():
    tries[name] = read({"text": "a = 1", "tries": 7}, Draft).tries
    try:
        lengths[name] = read({"text": "a = 1"}, Measured).length
    except msgspec.ValidationError as error:
        lengths[name] = str(error)
    print(f"{name:8} tries: {tries[name]}; length: {lengths[name]}")
schema = msgspec.json.schema(Measured)["$defs"]["Measured"]
print("msgspec's schema requires", schema["required"])
others = all(tries[name] == 0 and lengths[name] == 5 for name in ("cattrs", "pydantic"))
asks = lengths["msgspec"] == "Object missing required field `length`" and "length" in schema["required"]
sys.exit(not (refused and others and tries["msgspec"] == 7 and asks))
PY
