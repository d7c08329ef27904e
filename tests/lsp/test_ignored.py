"""Files kept private: one verdict for every name of a file, and lists that cannot all be read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from blockdiff.errors import IgnoreListUnreadable
from blockdiff.system import ignored as module
from blockdiff.system.ignored import IgnoreFiles, Verdict, git_spec
from lsp_server.uris import file_of, files_of

posix = pytest.mark.skipif(sys.platform == "win32", reason="paths of another kind")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose list closes `secret/` and notebooks, with two links."""
    root = tmp_path / "project"
    for folder in (".git", "secret", "src", "vendor/lib/.git"):
        (root / folder).mkdir(parents=True)
    (root / ".blockdiffignore").write_text("/secret/\n*.ipynb\nlinked.py\n")
    (root / ".gitignore").write_text("build/\n")
    for name in ("secret/a.py", "src/b.py", "nb.ipynb", "vendor/lib/x.ipynb"):
        (root / name).write_text("x\n")
    return root


@posix
@pytest.mark.parametrize(
    "name",
    [
        "file://{root}/secret/a.py",
        "FILE://{root}/secret/a.py",
        "file://localhost{root}/secret/a.py",
        "file://LOCALHOST{root}/secret/a.py",
        "file:{root}/secret/a.py",
        "file://{root}/secret%2Fa.py",
        "file://{root}/%73ecret/a.py",
        "file://{root}/src/../secret/a.py",
        "file://{root}//secret/./a.py",
        "file://{root}/secret/a.py?x=1#L3",
        "file://{root}/secret/not there yet#1?.py",
        "git:{root}/secret/a.py?{query}",
        "git:/elsewhere.py?{query}",
        "gitfs:{root}/.git/secret/a.py",
        "fugitive://{root}/.git//0/secret/a.py",
        "gitsigns://{root}/.git//:0:secret/a.py",
        "diffview://{root}/.git/0123abcd/secret/a.py",
        "vscode-notebook-cell:{root}/nb.ipynb#W0sZmlsZQ%3D%3D",
        "vscode-notebook-cell://ssh-remote%2Bhost{root}/nb.ipynb#W1s",
        "vscode-remote://wsl%2Bubuntu{root}/secret/a.py",
        "vscode-vfs://github{root}/secret/a.py",
        "untitled:{root}/secret/new.py",
        "jar:file://{root}/secret/lib.jar!/a/B.java",
        "gitlens://7b7d{root}/secret/a.py?{query}",
        "suda://{root}/secret/a.py",
        "file:///{root}/secret/a.py",
        "{root}/secret/a.py",
        "file://{root}/src/link.py",
        "file://{root}/src/folder/a.py",
        "file://{root}/src/chain.py",
        "untitled:{root}/src/link.py",
        "file://{root}/src/linked.py",
        "file://{root}/vendor/lib/x.ipynb",
    ],
)
def test_a_closed_file_is_closed_by_every_name(project: Path, name: str) -> None:
    (project / "src" / "link.py").symlink_to("../secret/a.py")
    (project / "src" / "chain.py").symlink_to("link.py")
    (project / "src" / "linked.py").symlink_to("b.py")  # closed by its own name
    (project / "src" / "folder").symlink_to(project / "secret")
    query = quote(json.dumps({"path": f"{project}/secret/a.py", "ref": "~"}))
    uri = name.format(root=project, query=query)
    assert IgnoreFiles().strictest(files_of(uri)) is Verdict.CLOSED, files_of(uri)


@posix
@pytest.mark.parametrize(
    "uri",
    [
        "untitled:Untitled-1", "", "x", "file:", "file://", "file:///%00", "file:///%zz", "git:?{",
        "file://[::1/x", "vscode-notebook-cell:#", "output:tasks", "file:///" + "a/" * 20_000,
        "http://[", "git:/a?[[", "\ud800", "file:///\ud800/%ff.py", "zipfile:x::y",
        "file://{root}/src/b.py", "git:{root}/src/b.py?%7B%22path%22%3A3%7D",
        "file://{root}/Secret/a.py", "file://{root}/secrets/a.py", "file://{root}/loop/a.py",
    ],
)  # fmt: skip
def test_any_other_name_is_open_and_none_is_too_strange(project: Path, uri: str) -> None:
    (project / "loop").symlink_to("loop")
    assert IgnoreFiles().strictest(files_of(uri.replace("{root}", str(project)))) is Verdict.OPEN


@posix
def test_what_git_ignores_is_no_context_by_any_name(project: Path) -> None:
    (project / "build").mkdir()
    (project / "src" / "made").symlink_to("../build")
    for uri in (f"file://{project}/build/a.py", f"file://{project}/src/made/a.py"):
        assert IgnoreFiles().strictest(files_of(uri)) is Verdict.NOT_AS_CONTEXT
    # the list of a repository says nothing of another inside
    assert IgnoreFiles().verdict(project / "vendor/lib/build/a.py") is Verdict.OPEN


@pytest.mark.parametrize(
    ("line", "fits", "does_not"),
    [
        ("build[!a-z]*", ["build-1/a.py", "build2"], ["build/a.py", "builder.py"]),
        ("test[^_]*.py", ["tests.py", "x/test-a.py"], ["test/a.py", "test_a.py"]),
        ("a[!]b]c", ["a-c"], ["a/c", "a]c", "abc"]),
        ("a\\[^b*", ["a[^b.py"], ["a-b", "a/b"]),
    ],
)
def test_a_class_fits_no_slash_as_in_git(line: str, fits: list[str], does_not: list[str]) -> None:
    spec = git_spec([line])
    assert all(map(spec.match_file, fits)) and not any(map(spec.match_file, does_not))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"secret/\n!\n", "line 2"),
        (b"\\\nsecret/\n", "line 1"),
        (b"[a\nsecret/\nx\\\n", "line 1, 3"),
        (b"secret/\n[z-a]\n", "line 2"),
        (b"\xef\xbb\xbfsecret/\n", ""),
        (b"\xef\xbb\xbf!\nsecret/", "line 1"),
        ("\ufeffsecret/\r\n# no\r\n".encode("utf-16-le"), ""),
        (b"/secret/\r\n\r\n# a comment\r\n", ""),
        (b"\xff\xfa\nsecret/\n", ""),
        (b"# no\rsecret/\r", ""),
        (b"secret/   \nsrc\\\n", "line 2"),
        (b"**/[\n/secret/**\n", "line 1"),
        (b"secret\n!\n\\\n[\nC:\\x\n", "line 2, 3, 4"),
        (b"./src/\nsecret/\n~/src/\n../x\n", "line 1, 3, 4"),
        (b"secret/\n!secret/a.py\n", ""),  # as git has it: the folder is ignored
        (b"*\n!*/\n!b.py\n!/src/\n", ""),
        (b"*" * 200 + b"x\nsecret/\n" + b"**/" * 100 + b"zz\n", ""),  # as git has it: *x, **/zz
        (b"*r" * 100 + b"\nsecret/\n" + b"r" * 9000, "line 1, 3"),  # takes for ever, and too much
        (b"!\\***/x\n" + b"**/" * 9 + b"secret/\n", ""),
    ],
)
def test_what_can_be_read_of_a_list_holds_and_the_rest_is_reported_once(
    project: Path, content: bytes, lines: str
) -> None:
    (project / ".blockdiffignore").write_bytes(content)
    reports: list[IgnoreListUnreadable] = []
    rules = IgnoreFiles(reports.append)
    for _ in range(3):
        assert rules.verdict(project / "secret" / "a.py") is Verdict.CLOSED
        assert rules.verdict(project / "src" / "b.py") is Verdict.OPEN
    assert [lines in report.message and report.code for report in reports] == (
        ["ignore_list"] if lines else []
    )
    if lines:
        (project / ".blockdiffignore").write_text("nothing.py\n")
        assert rules.verdict(project / "secret" / "a.py") is Verdict.OPEN and len(reports) == 1


@posix
def test_names_that_are_not_utf_8_are_closed_as_the_disk_has_them(project: Path) -> None:
    (project / ".blockdiffignore").write_bytes(b"caf\xe9.py\n")
    assert IgnoreFiles().strictest(files_of(f"file://{project}/caf%E9.py")) is Verdict.CLOSED
    assert IgnoreFiles().verdict(project / os.fsdecode(b"caf\xe9.py")) is Verdict.CLOSED


NO_FILE: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo if hasattr(os, "mkfifo") else Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("/no/such/list"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@posix
@pytest.mark.parametrize("made", NO_FILE.values(), ids=NO_FILE.keys())
def test_a_list_that_is_no_file_closes_all_below_it_and_says_so(
    project: Path, made: Callable[[Path], object]
) -> None:
    (project / ".blockdiffignore").unlink()
    made(project / ".blockdiffignore")
    reports: list[IgnoreListUnreadable] = []
    assert IgnoreFiles(reports.append).verdict(project / "src" / "b.py") is Verdict.CLOSED
    assert len(reports) == 1 and "cannot be read" in reports[0].message


def test_case_does_not_matter_where_the_file_system_ignores_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".blockdiffignore").write_text("/Secret/\nCaf\u00e9.py\n")
    monkeypatch.setattr(module, "_ignores_case", lambda file: True)
    for name in ("secret/a.py", "SECRET/a.py", "src/cafe\u0301.PY"):
        assert IgnoreFiles().verdict(project / name) is Verdict.CLOSED
    assert IgnoreFiles().verdict(project / "src" / "b.py") is Verdict.OPEN


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b%20c.py", "/a/b c.py"),
        ("FILE://localhost/a.py", "/a.py"),
        ("file:///c%3A/x.py", "c:/x.py"),
        ("file:///C:/x.py", "c:/x.py"),
        ("file://server/share/x.py", "//server/share/x.py"),
        ("untitled:/a.py", None),
        ("vscode-notebook-cell:/a.ipynb#x", None),
        ("file:", None),
    ],
)
def test_the_file_of_a_uri(uri: str, path: str | None) -> None:
    assert file_of(uri) == (Path(path) if path else None)
