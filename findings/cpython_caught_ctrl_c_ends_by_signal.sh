#!/usr/bin/env bash
# A Ctrl-C that click has caught still ends the program by the signal, if it came inside an eval().
#
# click turns KeyboardInterrupt into "Aborted!" and status 1, so one expects status 1 of every command
# made with it. It is so for a script. For the same file run by `python -m`, a press that lands
# while a string given to `eval` or `exec` runs prints "Aborted!" and then kills the process with
# SIGINT: CPython notes that the KeyboardInterrupt left the string as if it had left the program, the
# note outlives whoever catches the exception, and only the next string that is run takes it away. A
# code object (`compile` first) leaves no note. `dataclasses` and `namedtuple` run strings, so a press
# during the imports of a large program is one of the moments.
#
# Seen on 2026-11-29 with click 8.3.1 on CPython 3.11.7, 3.12.1 and 3.13.0.
#
# Why it matters here: editors start the command by `-m` and tell a stop by its user (130) from a
# crash by the status. Three of fifty presses while weights were loaded ended by the signal although
# "interrupted" had been printed. Running an empty string before the exit is enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check click==8.3.1
cat >"$folder/calculator.py" <<'PY'
import math
import time

import click


@click.command()
@click.argument("expression")
@click.option("--compiled", is_flag=True)
def main(expression, compiled):
    """Print the value of EXPRESSION."""
    click.echo("calculating")
    code = compile(expression, "<expression>", "eval") if compiled else expression
    click.echo(eval(code, {"math": math, "time": time}))


if __name__ == "__main__":
    main()
PY
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import signal
import subprocess
import sys
import time

SLOW = "sum(time.sleep(0.1) or math.sqrt(n) for n in range(300))"


def status(*command):
    """Of the calculator when Ctrl-C is pressed while it works; negative: ended by that signal."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    return process.returncode, error.strip()


print("CPython", sys.version.split()[0])
seen = {}
for name, command in {
    "script, string": ["calculator.py", SLOW],
    "module, code object": ["-m", "calculator", SLOW, "--compiled"],
    "module, string": ["-m", "calculator", SLOW],
}.items():
    seen[name] = status(*command)
    print(f"{name:20}  status {seen[name][0]:3}  {seen[name][1]}")
expected = {
    "script, string": (1, "Aborted!"),
    "module, code object": (1, "Aborted!"),
    "module, string": (-signal.SIGINT, "Aborted!"),
}
sys.exit(seen != expected)
PY
