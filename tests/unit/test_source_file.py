"""A file is read once, addressed by 1-based lines and columns, and replaced in one step."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.cli import source_file
from blockdiff.cli.source_file import SourceFile
from blockdiff.errors import (
    BlockdiffError,
    DiskFull,
    InputFileError,
    InvalidRequest,
    OutputFileError,
    PositionOutside,
)

TEXT = st.text(alphabet="ab \t\r\n\f\x85\u2028é😀", max_size=40)
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")


def plain_positions(text: str) -> list[tuple[int, int]]:
    """Oracle: line and column of every offset, by walking over the text."""
    positions, line, column = [], 1, 1
    for index, character in enumerate(text):
        positions.append((line, column))
        if character == "\n" or (character == "\r" and text[index + 1 : index + 2] != "\n"):
            line, column = line + 1, 1
        else:
            column += 1
    return [*positions, (line, column)]


# Positions


@given(TEXT)
def test_positions_agree_with_a_walk_over_the_text(text: str) -> None:
    source = SourceFile.from_text(text)
    positions = plain_positions(text)
    assert [source.position(offset) for offset in range(len(text) + 1)] == positions
    assert source.n_lines == positions[-1][0]


@given(TEXT)
def test_every_position_outside_line_endings_round_trips(text: str) -> None:
    source = SourceFile.from_text(text)
    for offset in range(len(text) + 1):
        if text[offset - 1 : offset + 1] == "\r\n":
            continue  # between CR and LF is no place for a cursor
        assert source.offset(*source.position(offset)) == offset


@pytest.mark.parametrize(
    ("text", "line", "column", "offset"),
    [
        ("ab\ncd\n", 1, 1, 0),
        ("ab\ncd\n", 1, 3, 2),
        ("ab\ncd\n", 2, 1, 3),
        ("ab\ncd\n", 3, 1, 6),
        ("ab\r\ncd", 1, 3, 2),
        ("ab\r\ncd", 2, 3, 6),
        ("a\rb", 2, 1, 2),
        ("a\fb\u2028c\x85d\n", 1, 8, 7),
        ("é😀x", 1, 3, 2),
        ("\tx", 1, 2, 1),
    ],
)
def test_offset_of_a_position(text: str, line: int, column: int, offset: int) -> None:
    assert SourceFile.from_text(text).offset(line, column) == offset


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        (0, 1, "line 0 is outside standard input, which has 3 lines"),
        (4, 1, "line 4 is outside standard input, which has 3 lines"),
        (1, 0, "column 0 is outside line 1 of standard input, which has 2 characters"),
        (1, 4, "column 4 is outside line 1 of standard input, which has 2 characters"),
        (2, 3, "column 3 is outside line 2 of standard input, which has 1 character"),
    ],
)
def test_a_position_outside_says_what_there_is(line: int, column: int, message: str) -> None:
    with pytest.raises(PositionOutside) as caught:
        SourceFile.from_text("ab\nc\n").offset(line, column)
    assert caught.value.message == message
    assert caught.value.hint


# Holes

PROGRAM = "def f(x):\n    y = x\n    return y\n"


@pytest.mark.parametrize(
    ("lines", "hole"),
    [
        ("2", "y = x"),
        ("2-2", "y = x"),
        ("2-3", "y = x\n    return y"),
        ("1-3", "def f(x):\n    y = x\n    return y"),
        ("4", ""),
    ],
)
def test_lines_leave_indentation_and_last_newline_outside(lines: str, hole: str) -> None:
    for program in (PROGRAM, PROGRAM.replace("\n", "\r\n")):
        source = SourceFile.from_text(program)
        span = source_file.hole_of_lines(source, lines)
        assert program[span.start : span.end].replace("\r\n", "\n") == hole


def test_lines_of_nothing_but_indentation_are_an_empty_hole_behind_it() -> None:
    source = SourceFile.from_text("if x:\n    \ny = 1\n")
    hole = source_file.hole_of_lines(source, "2")
    assert (hole.start, hole.end) == (10, 10)


def test_at_inserts_and_hole_excludes_its_end() -> None:
    source = SourceFile.from_text("abc\ndef\n")
    at = source_file.hole_at(source, "2:2")
    assert (at.start, at.end) == (5, 5)
    span = source_file.hole_between(source, "1:2-2:3")
    assert source.text[span.start : span.end] == "bc\nde"


@pytest.mark.parametrize(
    ("find", "value"),
    [
        (source_file.hole_at, "3"),
        (source_file.hole_at, "1:2:3"),
        (source_file.hole_at, "-1:2"),
        (source_file.hole_at, "a:b"),
        (source_file.hole_at, "١:١"),
        (source_file.hole_at, "1:99999999999999999999"),
        (source_file.hole_of_lines, "2-1"),
        (source_file.hole_of_lines, "x"),
        (source_file.hole_of_lines, "1-"),
        (source_file.hole_of_lines, "0-1"),
        (source_file.hole_of_lines, "1-99"),
        (source_file.hole_between, "1:1"),
        (source_file.hole_between, "2:1-1:1"),
        (source_file.hole_between, "1:1-9:9"),
    ],
)
def test_malformed_positions_are_refused(find: source_file.HoleFinder, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find(SourceFile.from_text("abc\ndef\n"), value)
    assert "\n" not in caught.value.message
    assert caught.value.hint


# Reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"ab\0c", "is binary: NUL byte at offset 2"),
        (b"ab\ncd\xff\n", "is not UTF-8: byte 0xff at offset 5, line 2"),
        (b"\xef\xbb\xbfab\xff", "is not UTF-8: byte 0xff at offset 5, line 1"),
        (b"\xed\xa0\x80", "is not UTF-8: byte 0xed at offset 0, line 1"),
        (b"caf\xc3", "is not UTF-8: byte 0xc3 at offset 3, line 1"),
        ("text".encode("utf-16"), "is UTF-16, not UTF-8"),
        (b"x" * (source_file.MAX_BYTES + 1), "is larger than 8 MiB"),
    ],
)
def test_content_that_is_no_source_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.py"
    path.write_bytes(content)
    with pytest.raises(InputFileError) as caught:
        source_file.read(str(path))
    assert caught.value.message == f"{path} {message}"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py", "does not exist"),
        ("", "is a directory"),
        ("file.py/below", "cannot be read: Not a directory"),
        ("x" * 300, "cannot be read: File name too long"),
        ("nul\0.py", "cannot be read: embedded null"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file.py").touch()
    with pytest.raises(InputFileError, match=message) as caught:
        source_file.read(str(tmp_path / name))
    assert "\n" not in caught.value.message


def test_a_file_without_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root may read everything
    with pytest.raises(InputFileError, match="cannot be read: permission denied"):
        source_file.read(str(tmp_path / "file.py"))


def test_a_file_name_with_control_characters_stays_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputFileError) as caught:
        source_file.read(str(tmp_path / "a\nb"))
    assert "\n" not in caught.value.message


def test_one_megabyte_and_more_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.py"
    text = "x = 1\n" * (2**21 // 6)
    path.write_text(text)
    source = source_file.read(str(path))
    assert source.text == text
    assert source.offset(source.n_lines, 1) == len(text)


# Writing


def written(tmp_path: Path, content: bytes, text: str) -> Path:
    path = tmp_path / "file.py"
    path.write_bytes(content)
    source_file.write(source_file.read(str(path)), text)
    assert os.listdir(tmp_path) == ["file.py"], "a temporary file is left"
    return path


def test_line_endings_and_byte_order_mark_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbfa\r\nb\r\n", "a\r\nc\r\n")
    assert path.read_bytes() == b"\xef\xbb\xbfa\r\nc\r\n"


def test_the_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_bytes(b"\xef\xbb\xbfab\n")
    source = source_file.read(str(path))
    assert source.bom
    assert source.text == "ab\n"


@posix
@pytest.mark.parametrize("mode", [0o600, 0o755, 0o664])
def test_the_mode_is_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file.py"
    path.write_text("old\n")
    path.chmod(mode)
    source_file.write(source_file.read(str(path)), "new\n")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_link_stays_a_link_and_its_target_changes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    target, link = folder / "target.py", tmp_path / "link.py"
    target.write_text("old\n")
    link.symlink_to(Path("folder") / "target.py")
    source_file.write(source_file.read(str(link)), "new\n")
    assert link.is_symlink()
    assert target.read_text() == "new\n"


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text("old\n")
    source = source_file.read(str(path))
    path.write_text("someone else\n")
    with pytest.raises(OutputFileError, match="was changed while the model worked"):
        source_file.write(source, "new\n")
    assert path.read_text() == "someone else\n"
    assert os.listdir(tmp_path) == ["file.py"]


def test_a_file_that_was_removed_is_not_brought_back(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text("old\n")
    source = source_file.read(str(path))
    path.unlink()
    with pytest.raises(OutputFileError, match="was removed"):
        source_file.write(source, "new\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("failing", "code", "expected"),
    [
        ("fsync", errno.ENOSPC, DiskFull),
        ("fsync", errno.EIO, OutputFileError),
        ("replace", errno.EACCES, OutputFileError),
    ],
)
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    code: int,
    expected: type[BlockdiffError],
) -> None:
    path = tmp_path / "file.py"
    path.write_text("old\n")
    source = source_file.read(str(path))

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"blockdiff.cli.source_file.os.{failing}", fail)
    with pytest.raises(expected):
        source_file.write(source, "new\n")
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["file.py"]


@pytest.mark.parametrize(
    ("readonly", "message"),
    [("file.py", "is read-only"), ("", "the folder of .* is read-only")],
)
def test_what_is_read_only_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readonly: str, message: str
) -> None:
    path = tmp_path / "file.py"
    path.write_text("old\n")
    refused = tmp_path / readonly  # root may write everything, so the answer is scripted
    monkeypatch.setattr("blockdiff.cli.source_file.os.access", lambda p, _: Path(p) != refused)
    with pytest.raises(OutputFileError, match=message):
        source_file.check_writable(source_file.read(str(path)))


def test_standard_input_cannot_be_written() -> None:
    with pytest.raises(InvalidRequest, match="--write needs a file"):
        source_file.check_writable(SourceFile.from_text("x\n"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="extended attributes")
def test_extended_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text("old\n")
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    source_file.write(source_file.read(str(path)), "new\n")
    assert os.getxattr(path, "user.note") == b"kept"
