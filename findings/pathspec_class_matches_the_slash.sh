#!/usr/bin/env bash
# A negated class in a .gitignore reaches into a folder if pathspec reads it, and ignores what git keeps.
#
# In patterns of git neither `*` nor `?` nor a class in brackets fits a slash, whatever the class leaves open; pathspec
# knows it of the first two. A negated class it hands to the regular expression as it is, and there `[^a-z]`
# fits a slash like any other character. So `build[!a-z]*`, meant for build-1 and build2, ignores all that lies
# directly in `build/` too and, as what is ignored may be a folder, all below. Nothing warns of it. It holds for
# both spellings, and for `GitIgnoreSpec`, whose purpose is to do as git does.
#
# Seen on 2026-11-28 with pathspec 1.1.1, its newest release, against git 2.39.5.
#
# Why it matters here: the files that are shown to the model as context are chosen by ignore lists, read with this
# library. One such line silently takes a folder of sources out of the index, and out of nothing else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pathspec==1.1.1
"$folder/venv/bin/python" - "$folder/repository" <<'PY'
import subprocess
import sys

from pathspec import GitIgnoreSpec

TABLE = [  # a pattern; what both ignore; what both keep; what pathspec alone ignores
    ("build[!a-z]*", ["build-1/a.py", "build2"], ["builder.py"], ["build/a.py", "x/build/y/a.py"]),
    ("test[^_]*.py", ["tests.py", "test-a.py"], ["test_a.py", "tests/a.py"], ["test/a.py"]),
    ("build?*", ["build-1/a.py", "build2", "builder.py"], ["build/a.py"], []),
    ("build[-0-9]*", ["build-1/a.py", "build2"], ["build/a.py", "builder.py"], []),
]
repository = sys.argv[1]
git = ["git", "-c", "core.excludesFile=/dev/null", "-C", repository]
subprocess.run(["git", "init", "--quiet", repository], check=True)
changed = False
for pattern, *groups in TABLE:
    with open(f"{repository}/.gitignore", "w") as list_:
        list_.write(pattern + "\n")
    spec = GitIgnoreSpec.from_lines([pattern])
    for files, wanted in zip(groups, ((True, True), (False, False), (False, True)), strict=True):
        for file in files:
            by_git = subprocess.run([*git, "check-ignore", "--quiet", file]).returncode == 0
            seen = by_git, spec.match_file(file)
            print(f"{pattern:13} {file:15} ignored by git: {seen[0]!s:5} by pathspec: {seen[1]}")
            changed |= seen != wanted
sys.exit(changed)
PY
