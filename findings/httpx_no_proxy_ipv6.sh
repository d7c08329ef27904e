#!/usr/bin/env bash
# One entry of NO_PROXY keeps an httpx client from being made at all.
#
# NO_PROXY with an IPv6 network, such as `localhost,fe11::/16`, is what other clients accept, and httpx takes
# IPv4 networks there without complaint. As soon as any proxy is set, `httpx.Client()` raises InvalidURL,
# a message about a port, although no request was made and the host to be asked has nothing to do with
# that network. The message does not name the variable.
#
# Seen on 2026-11-28 with httpx 0.28.1.
#
# Why it matters here: the handle on an engine elsewhere is made while an editor waits; an environment that
# works for curl and pip became an internal error. The variables are read by our own code now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check httpx==0.28.1
env -u http_proxy -u https_proxy -u all_proxy -u no_proxy -u HTTP_PROXY -u ALL_PROXY \
  HTTPS_PROXY=http://proxy.example:3128 "$folder/venv/bin/python" - <<'PY'
import os
import sys

import httpx

seen = {}
for value in ("localhost,10.0.0.0/8", "localhost,fe11::/16"):
    os.environ["NO_PROXY"] = value
    try:
        httpx.Client().close()
        seen[value] = "a client"
    except Exception as error:
        seen[value] = f"{type(error).__name__}: {error}"
    print(f"NO_PROXY={value}: {seen[value]}")
first, second = seen.values()
sys.exit(not (first == "a client" and second.startswith("InvalidURL")))
PY
