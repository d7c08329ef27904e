"""A draft keeps what belongs in the hole, loses what runs past it, and reads like the document."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blockdiff.infill.seams import Seams
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.syntax.nesting import Nesting, scan
from blockdiff.syntax.whitespace import indentation_unit, line_ending
from blockdiff.types import FinishReason
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL

PYTHON = "def mean(numbers):\n"
LOOP = "    total = 0\n    for n in numbers:\n        total += n\n"
RETURN = "    return total / len(numbers)\n"


# --- writing on into the suffix


@pytest.mark.parametrize(
    "prefix, text, suffix",
    [
        (PYTHON, LOOP, RETURN),  # whole lines
        (PYTHON, LOOP.rstrip(), "\n" + RETURN),  # up to the end of a line
        (PYTHON, LOOP.rstrip(), "\n\n\n" + RETURN),
        (PYTHON + "    ", LOOP.strip(), "\n" + RETURN),  # the cursor behind the indentation
        (PYTHON + "    total = ", "sum(numbers)", "\n" + RETURN),
        (PYTHON + "    total = sum(", "numbers", ")\n" + RETURN),  # within a line
        ("for idx, x in", " enumerate(a):\n    if x", " < limit(a):\n        print(x)\n"),
        ("x = [\n", "    1,\n    2,\n", "]\nprint(x)\n"),
    ],
)
@pytest.mark.parametrize("more", ["", "\n", "\n\n"])
def test_a_repeated_suffix_is_cut(prefix: str, text: str, suffix: str, more: str) -> None:
    seams = Seams(prefix, suffix, "python")
    assert seams.finish(text) == text
    lines = suffix.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        repeated = "".join(lines[:count]).rstrip("\n")
        if repeated:
            assert seams.finish(text + repeated + more) == text, repeated


def test_a_repeat_without_the_blank_line_is_a_repeat() -> None:
    seams = Seams(PYTHON, "\n\n" + RETURN, "python")
    assert seams.finish(LOOP + RETURN) == LOOP.rstrip()
    assert seams.finish(LOOP + "\n" + RETURN) == LOOP.rstrip()


@pytest.mark.parametrize(
    "prefix, text, suffix, language",
    [
        # one more level in: not the line that follows
        (PYTHON, "    if not numbers:\n        return 0\n", "    return 0\n", "python"),
        (PYTHON + "    ", "if not numbers:\n        return 0", "\n    return 0\n", "python"),
        # closing brackets that the draft opened itself
        ("f(", "g(x)", ")\n", "python"),
        ("void f() {\n", "  if (x) {\n    y();\n  }\n", "}\n", "c"),
        ("x = {\n", "  'a': {\n    'b': 1,\n  },\n", "}\n", "javascript"),
        ("function f()\n", "  if x then\n    y()\n  end\n", "end\n", "lua"),
        # short lines that code does repeat
        ("x = [\n", "    None,\n    None,\n", "    None,\n]\n", "python"),
        ("x = [\n", "    0, 0, 1,\n    0, 1, 0,\n", "    0, 1, 0,\n]\n", "python"),
        ("f();\n", "i++;\nj++;\n", "j++;\n", "c"),
        # nothing follows
        ("", "def f():\n    return 1\n\n\ndef g():\n    return 2\n", "", "python"),
        ("x", "", "y", "python"),
        # a copy that goes its own way is none
        (PYTHON, "    a = 1\n    b = 2\n    a = 3\n", "    a = 1\n    c = 4\n", "python"),
    ],
)
def test_what_only_looks_like_a_repeat_stays(
    prefix: str, text: str, suffix: str, language: str
) -> None:
    seams = Seams(prefix, suffix, language)
    assert seams.finish(text) == text
    for end in range(len(text)):
        assert seams.cut(text[:end], final=False) == (text[:end], False)


@pytest.mark.parametrize(
    "prefix, raw, suffix, language, expected",
    [
        ("f(", "x)", ")\n", "python", "x"),
        ("f(", "x);", ");\n", "c", "x"),
        ("if (x) {\n", "  y();\n}", "\n}\n", "c", "  y();"),
        ("if (x) {\n", "  y();\n}\n", "}\n", "c", "  y();\n"),
        ("x = [f('", "a')]", "')]\n", "python", "a"),
        ("function f()\n", "  y()\nend\n", "end\n", "lua", "  y()\n"),
        ("for x in", " a:\n    if x < 1:", " < 1:\n        y()\n", "python", " a:\n    if x"),
    ],
)
def test_a_trivial_repeat_is_cut_where_brackets_or_the_grammar_ask_for_it(
    prefix: str, raw: str, suffix: str, language: str, expected: str
) -> None:
    assert Seams(prefix, suffix, language).finish(raw) == expected


def test_a_draft_cut_off_in_the_middle_of_a_repeat() -> None:
    seams = Seams(PYTHON, RETURN + "\n\nprint(mean([1, 2]))\n", "python")
    for raw in (LOOP + "    return total / le", LOOP + RETURN + "\n\nprint(me"):
        assert seams.finish(raw, FinishReason.LENGTH) == LOOP
    whole = LOOP + "    return total / le"
    assert seams.finish(whole, FinishReason.EOM).rstrip() == whole
    assert seams.finish(LOOP + "    r", FinishReason.LENGTH) == LOOP  # parses only without
    assert seams.finish(LOOP + "    x", FinishReason.LENGTH) == LOOP  # is no whole line
    assert seams.finish("x = '\ufffd", FinishReason.LENGTH) == "x = '"


def test_a_run_of_the_suffix_stops_generation() -> None:
    suffix = "    a = one(1)\n    b = two(2)\n    c = three(3)\n    return a + b + c\n" * 2
    seams = Seams("def f():\n", suffix, "python")
    raw = "    x = 1\n" + suffix
    stopped = [seams.cut(raw[:end], final=False) for end in range(len(raw))]
    first = next(end for end, (_, stop) in enumerate(stopped) if stop)
    assert raw[:first].count("\n") == 4  # three telling lines are enough, one is not
    assert all(keep == "    x = 1\n" for keep, stop in stopped[first:] if stop)
    assert all(stop for _, stop in stopped[first:])


def test_the_first_line_alone_where_only_that_fits_into_the_line() -> None:
    seams = Seams("    x = f(", ")\n    y = 2\n", "python")
    assert seams.finish("a, b)\n    z = g(1)\n    w = 2\n") == "a, b"
    assert seams.finish("a,\n        b") == "a,\n        b"
    assert seams.finish("a)\n    z = g(1") == "a)\n    z = g(1"


def test_a_line_break_that_tears_off_the_rest_of_the_line_goes() -> None:
    assert Seams("if x", ":\n    pass\n", "python").finish(" > 5\n") == " > 5"
    assert Seams("x = (", ")\n", "python").finish("5\n") == "5\n"  # harmless there


def test_a_line_break_that_the_next_line_needs_comes() -> None:
    assert Seams(PYTHON, RETURN, "python").finish("    total = 1") == "    total = 1\n"
    assert Seams(PYTHON, RETURN, "python").finish("    x = 1  # it's") == "    x = 1  # it's\n"
    assert Seams("a();\r\n", "c();\r\n", "c").finish("b();") == "b();"  # correct as it is
    assert Seams("a = 1\r\n", "c = 1\r\n", "python").finish("b = 1") == "b = 1\r\n"
    assert Seams("a = 1\n", " = 1\n", "python").finish("b") == "b"


# --- running past the construct


METHOD = "class A:\n    def f(self):\n        x = 1\n"


@pytest.mark.parametrize(
    "prefix, raw, suffix, kept",
    [
        (PYTHON, LOOP + "\n\ndef g(", RETURN, LOOP),
        (PYTHON, LOOP + "\n\n@cache\ndef g(", RETURN, LOOP),
        (PYTHON, LOOP + "\n\n# next\n# thing\nclass G:\n    pass\n", RETURN, LOOP),
        (PYTHON, LOOP + "\n\ndef g(", "\n" + RETURN, LOOP.rstrip()),
        (PYTHON, LOOP + RETURN + "\n\nasync def g(", "\n\ndef h():\n    pass\n", LOOP + RETURN),
        (METHOD, "        y = 2\n\n    def g(self):\n", "        return x\n", "        y = 2\n"),
        (METHOD, "        y = 2\n\ndef g():\n", "        return x\n", "        y = 2\n"),
        ("def f(", "x):\n    return x\n\n\ndef g(", "", "x):\n    return x"),
        ("def f():\n    x = ", "1\n    return x\n\n\ndef g(", "", "1\n    return x"),
        (PYTHON, LOOP + RETURN + "\n\ndef g():\n    return 1\n", "", LOOP + RETURN),
    ],
)
def test_another_definition_stops_it(prefix: str, raw: str, suffix: str, kept: str) -> None:
    seams = Seams(prefix, suffix, "python")
    keep, stop = seams.cut(raw, final=False)
    assert stop and keep.rstrip() == kept.rstrip()
    assert seams.finish(raw).rstrip() == kept.rstrip()


@pytest.mark.parametrize(
    "prefix, raw, suffix",
    [
        # functions within the function
        (PYTHON, "    def g(x):\n        return x\n\n    def h(x):\n        return x\n", RETURN),
        (PYTHON + "    def g():\n", "        return 1\n\n    def h():\n        return 2\n", RETURN),
        # the hole is not in a function
        ("import os\n\n", "def f():\n    return 1\n\n\ndef g():\n    return 2\n", "x = f()\n"),
        (
            "class A:\n",
            "    def f(self):\n        pass\n\n    def g(self):\n        pass\n",
            "\nx = 1\n",
        ),
        (METHOD, "        return x\n\n    def g(self):\n        return 2\n", "\nx = A()\n"),
        # no definitions, only text
        (PYTHON, '    x = """\ndef g():\n"""\n', RETURN),
        (PYTHON + '    """Averages.\n', "def g():\n", '    """\n' + RETURN),
        (PYTHON, "    x = f(\ndefault\n)\n", RETURN),
        # leaving blocks is ordinary
        (
            PYTHON + "    if x:\n        if y:\n",
            "            z()\n    else:\n        w()\n",
            RETURN,
        ),
    ],
)
def test_definitions_that_belong_in_the_hole_stay(prefix: str, raw: str, suffix: str) -> None:
    seams = Seams(prefix, suffix, "python")
    assert seams.finish(raw) == raw
    assert not any(seams.cut(raw[:end], final=False)[1] for end in range(len(raw)))


JS = "app.get('/', (req, res) => {\n"
GO = "func f() int {\n\tx := 1\n"


@pytest.mark.parametrize(
    "language, prefix, raw, suffix, kept",
    [
        ("c", "int f() {\n", "  return 1;\n}\n\nint g() {\n  return 2;\n", "}\n", "  return 1;\n"),
        ("c", "int f()\n{\n", "  return 1;\n}\n\nint g()\n{\n", "\n}\n", "  return 1;"),
        ("javascript", JS, "  res.send(1);\n});\n\napp.listen(1);\n", "});\n", "  res.send(1);\n"),
        ("go", GO, "\treturn x }\n\nfunc g() {\n", "}\n", "\treturn x"),
        ("lua", "function f()\n", "  x()\nend\n\nfunction g()\n", "end\n", "  x()\n"),
        (
            "java",
            "class A {\n  int f() {\n",
            "    x();\n  }\n\n  int g() {\n",
            "  }\n}\n",
            "    x();\n",
        ),
        ("rust", "fn f() -> i32 {\n", "    1\n}\n\nfn g() {\n", "}\n", "    1\n"),
    ],
)
def test_leaving_the_function_by_its_bracket(
    language: str, prefix: str, raw: str, suffix: str, kept: str
) -> None:
    seams = Seams(prefix, suffix, language)
    keep, stop = seams.cut(raw, final=False)
    assert stop and keep.rstrip() == kept.rstrip()
    assert seams.finish(raw).rstrip() == kept.rstrip()


@pytest.mark.parametrize(
    "language, prefix, raw, suffix",
    [
        # blocks, not functions
        ("c", "void f() {\n  if (a) {\n", "    x();\n  }\n  if (b) {\n    y();\n", "  }\n}\n"),
        ("c", "void f() {\n  if (a &&\n      b) {\n", "    x();\n  }\n  if (c) {\n", "  }\n}\n"),
        ("rust", "fn f() {\n  match x {\n    Ok(_) => {\n", "      a();\n    }\n    Err(_) => {\n",
         "    }\n  }\n}\n"),
        ("c", "struct A {\n", "  int x;\n};\n\nstruct B {\n", "  int y;\n};\n"),
        # the bracket is the draft's to close
        ("c", "int f() {\n", "  return 1;\n}\n", ""),
        # the next definition is in a string, or not there
        ("javascript", JS, "  res.send(`\n});\n\nfunction g() {\n`);\n", "});\n"),
        ("java", "class A {\n  int f() {\n", "    return 1;\n", "  }\n}\n"),
    ],
)  # fmt: skip
def test_brackets_that_belong_in_the_hole_stay(
    language: str, prefix: str, raw: str, suffix: str
) -> None:
    seams = Seams(prefix, suffix, language)
    assert seams.finish(raw) == raw
    assert not any(seams.cut(raw[:end], final=False)[1] for end in range(len(raw)))


def test_a_draft_may_leave_where_the_replaced_text_did() -> None:
    raw = LOOP + RETURN + "\n\ndef g(x):\n"
    assert Seams(PYTHON, RETURN, "python", replaced="    pass\n\n\ndef h(x):\n").finish(raw) == raw
    assert Seams(PYTHON, RETURN, "python", replaced="    pass\n").finish(raw) != raw


# --- a chat answer


@pytest.mark.parametrize(
    "prefix, suffix, replaced, raw, kept",
    [
        ("x = ", "\n", "", "1\n```\nDone.", "1"),
        ("x = 1\n", "z = 3\n", "y = 0\n", "y = 2\n```", "y = 2\n"),
        ("x = f(", ")\n", "", "1\n```", "1"),
        ("x = 1\n", "", "", "y = 2\n```\n", "y = 2"),
        ("", "\n", "", "```", ""),
        ("x = ", "\n", "", "'```'\n```", "'```'"),
        ("x = ", "\n", "", "1\n``` for n in", "1"),
    ],
)
def test_the_closing_fence_ends_it(
    prefix: str, suffix: str, replaced: str, raw: str, kept: str
) -> None:
    seams = Seams(prefix, suffix, "python", replaced=replaced, fence="```")
    assert seams.cut(raw, final=False) == (kept, True)
    assert seams.finish(raw) == kept
    assert Seams(prefix, suffix, "", fence="`````").cut(raw, final=False) == (raw, False)


# --- line endings and indentation


@pytest.mark.parametrize(
    "prefix, suffix, expected",
    [
        ("a\r\nb", "c\r\n", "\r\n"),
        ("a\nb", "c\n", "\n"),
        ("a\r\nb", "cccc\n", "\r\n"),  # the nearest decides
        ("a\r\nbbbbb", "c\n", "\n"),
        ("a\r\n", "\n", "\r\n"),
        ("a", "\r\nb", "\r\n"),
        ("\n", "", "\n"),
        ("a", "b", "\n"),
        ("", "", "\n"),
    ],
)
def test_the_nearest_line_ending_is_used(prefix: str, suffix: str, expected: str) -> None:
    assert line_ending(prefix, suffix) == expected
    assert Seams(prefix, suffix).finish("1\n2") == f"1{expected}2"


@pytest.mark.parametrize(
    "document, unit",
    [
        ("a\n\tb\n\t\tc\n", "\t"),
        ("a\n    b\n        c\n", "    "),
        ("a\n  b\n    c\n  d\n", "  "),
        ("a\n    b\n\tc\n", ""),
        ("a\nb\n", ""),
        ("/*\n * text\n */\n\ta\n", "\t"),
        ("f(a,\n  b)\n" + "    x\n" * 9, "  "),
    ],
)
def test_indentation_unit(document: str, unit: str) -> None:
    assert indentation_unit("", "\n" + document) == unit
    assert indentation_unit(document, "") == unit


@pytest.mark.parametrize(
    "prefix, suffix, raw, expected",
    [
        ("if a {\n\tb\n", "}\n", "    x\n        y\n", "\tx\n\t\ty\n"),
        ("if a {\n\tb\n", "}\n", "  x\n    y\n", "\tx\n\t\ty\n"),
        ("if a {\n\tb\n\t", "\n}\n", "x\n    y", "x\n\ty"),
        ("if a {\n\tb\n", "}\n", "\tx\n\t\ty\n", "\tx\n\t\ty\n"),
        ("if a {\n\tb\n", "}\n", "   x\n     y\n", "   x\n     y\n"),  # aligned, not indented
        ("if a {\n  b\n", "}\n", "\tx\n\t\ty\n", "  x\n    y\n"),
        ("if a {\n    b\n    ", "}\n", "\tx\n\ty\n", "x\n    y\n"),  # the cursor is deep enough
        ("if a {\n    b\n    c ", "}\n", "\tx\n\ty\n", "\tx\n    y\n"),
        ("if a {\n    b\n\tc\n", "}\n", "\tx\n    y\n", "\tx\n    y\n"),
        ("if a {\n\tb\n", "}\n", "\tx = `\n    y`\n    z\n", "\tx = `\n    y`\n\tz\n"),
    ],
)
def test_indentation_follows_a_consistent_document(
    prefix: str, suffix: str, raw: str, expected: str
) -> None:
    assert Seams(prefix, suffix, "go").finish(raw) == expected


def test_a_bom_is_no_text() -> None:
    seams = Seams("\ufeffx = [\n    1,\n", "]\n", "python")
    assert seams.finish("    2,\n]\n") == "    2,\n"
    assert Seams("", "\ufeffx = 1\ny = f(x)\n").finish("a = 2\nx = 1\n") == "a = 2\n"


# --- brackets


@pytest.mark.parametrize(
    "language, text, stack, unmatched, inside",
    [
        ("python", "f(a, [b", ")]", "", ""),
        ("python", "f(')', \"]\", # )\n", ")", "", ""),
        ("python", "'''\n(", "", "", "'''"),
        ("python", "'it\\'s (", "", "", "'"),
        ("python", "'open\n(", ")", "", ""),
        ("python", "x = 1  # it's (", "", "", "\n"),
        ("python", "a // (b", ")", "", ""),
        ("c", "a // (b", "", "", "\n"),
        ("c", "/* ( */ {", "}", "", ""),
        ("c", "'(' + 1'000 + {", "}", "", ""),
        ("javascript", "`(\n${", "", "", "`"),
        ("javascript", "`\\`(", "", "", "`"),
        ("go", "`\\` (", ")", "", ""),
        ("rust", "fn f<'a>(x: &'a str, c: '(') {", "}", "", ""),
        ("lua", "if a then f(", "end )", "", ""),
        ("lua", "for i in x do --[[ end ]] y() end", "", "", ""),
        ("lua", "x = [==[ ]] (", "", "", "]==]"),
        ("lua", "endless(do_it)", "", "", ""),
        ("java", '"""\n"(" """ }', "", "}", ""),
        ("", "(]", ")", "]", ""),
    ],
)
def test_nesting(language: str, text: str, stack: str, unmatched: str, inside: str) -> None:
    found = scan(text, language)
    closers = "".join(closer for closer, _ in found.stack)
    assert (closers, "".join(found.unmatched), found.inside) == (
        stack.replace(" ", ""),
        unmatched,
        inside,
    )


SCANNED = st.text(st.sampled_from("()[]{}'\"`#/*-\\\n ab"), max_size=40)


@settings(deadline=None)
@given(
    language=st.sampled_from(["python", "c", "javascript", "lua", "rust", ""]),
    first=SCANNED,
    second=SCANNED,
)
def test_scanning_goes_on_at_any_line(language: str, first: str, second: str) -> None:
    whole = scan(first + "\n" + second, language)
    parts = scan(second, language, scan(first + "\n", language), offset=len(first) + 1)
    assert whole == parts
    assert scan("", language, whole) == whole
    assert scan("", language) == Nesting()


# --- whatever comes


TEXT = st.text(
    st.sampled_from("ab1 \n\t=:()[]{}'\"`#/\\é😀\r\ufeff") | st.characters(), max_size=60
)
LINES = st.lists(
    st.sampled_from(
        [
            "def f(x):",
            "    return x",
            "    x = g(x)",
            "}",
            "",
            "\tif a {",
            "    )",
            "```",
            "x",
            "end",
        ]
    ),
    max_size=8,
).map("\n".join)


def derived(text: str, raw: str) -> bool:
    """Whether the text is the start of `raw`, up to line endings and indentation."""
    text, raw = (t.replace("\r\n", "\n").replace("\r", "\n") for t in (text, raw))
    if not raw.startswith(text) and text.endswith("\n") and derived(text.rstrip("\n"), raw):
        return True

    def plain(lines: str) -> list[str]:
        return [line.lstrip(" \t") for line in lines.split("\n")]

    kept, given_ = plain(text), plain(raw)
    return kept[:-1] == given_[: len(kept) - 1] and given_[len(kept) - 1].startswith(kept[-1])


@settings(deadline=None, max_examples=300)
@example("", "\r", "\n", 0, "python", "", "", FinishReason.EOM)  # a document of lone CR
@given(
    prefix=TEXT | LINES,
    suffix=TEXT | LINES,
    raw=TEXT | LINES,
    copied=st.integers(0, 60),
    language=st.sampled_from(["python", "go", "c", "lua", "javascript", ""]),
    replaced=st.just("") | LINES,
    fence=st.sampled_from(["", "", "```"]),
    reason=st.sampled_from(FinishReason),
)
def test_finish_never_raises_and_only_cuts(
    prefix: str,
    suffix: str,
    raw: str,
    copied: int,
    language: str,
    replaced: str,
    fence: str,
    reason: FinishReason,
) -> None:
    seams = Seams(prefix, suffix, language, replaced=replaced, fence=fence)
    raw += suffix[:copied]
    text = seams.finish(raw, reason)
    assert derived(text, raw)
    for final in (False, True):
        keep, stop = seams.cut(raw, final)
        assert raw.startswith(keep)
        assert stop == (keep != raw)
        assert seams.cut(raw, final) == (keep, stop)
    assert seams.finish(raw, reason) == text


def test_fuzz_the_seams_with_pieces_of_code() -> None:
    chance = random.Random(20)
    pieces = [
        "def f(x):\n", "    return x\n", "    if x:\n", "        g(x)\n", "    else:\n", "}\n",
        "{\n", "  }", "f(", ")", "\n", "x = 1\n", "\t", "'", '"""', "# note\n", "end\n", ",",
        "function()\n", "  [\n", "]\r\n", "=> {\n", "@a\n", "class A:\n", "    def m(self):\n",
        "\ufffd", "```\n",
    ]  # fmt: skip

    def code() -> str:
        return "".join(chance.choices(pieces, k=chance.randrange(12)))

    for _ in range(1500):
        prefix, suffix, raw = code(), code(), code()
        raw += chance.choice(["", suffix, suffix[: chance.randrange(40)], suffix + code()])
        language = chance.choice(["python", "javascript", "go", "lua", "c", ""])
        fence, replaced = chance.choice(["", "```"]), chance.choice(["", code()])
        seams = Seams(prefix, suffix, language, replaced=replaced, fence=fence)
        reason = chance.choice(list(FinishReason))
        assert derived(seams.finish(raw, reason), raw), (prefix, suffix, raw, language)


@given(lines=st.lists(st.text(st.characters(exclude_characters="\r\n"), max_size=5), max_size=6))
def test_crlf_round_trip(lines: list[str]) -> None:
    """In a CRLF document the answer is the one of the LF document, with CRLF."""
    raw = "\n".join(lines)
    lf = Seams("a\n  b\n", "  c\nd\n").finish(raw)
    crlf = Seams("a\r\n  b\r\n", "  c\r\nd\r\n").finish(raw)
    assert crlf == lf.replace("\n", "\r\n")
    assert "\r\r" not in crlf and crlf.count("\n") == crlf.count("\r\n")


# --- the real vocabulary


@pytest.fixture(scope="module")
def real() -> Tokenizer:
    return Tokenizer.from_gguf(store.resolve(DEFAULT_MODEL).base)


@pytest.mark.model
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_special_token_leaks_into_the_document(real: Tokenizer, data: st.DataObject) -> None:
    """Not from ids that were generated, and not from text that spells one across a seam."""
    special = real.special
    names = ["<|fim_mid", "dle|>", "<|", "|>", "im_end", "<|endoftext|>", "x = 1\n", "\r\n"]
    part = st.lists(st.sampled_from(names), max_size=4).map("".join)
    ids = st.lists(
        st.sampled_from([special.fim_middle, special.end_of_text, special.im_end, special.mask])
        | st.integers(0, real.vocab_size - 1),
        max_size=12,
    )
    prefix, suffix = data.draw(part), data.draw(part)
    raw = real.decode(data.draw(ids)) + data.draw(part)
    text = Seams(prefix, suffix, "python").finish(raw)
    document = prefix + text + suffix
    assert not any(map(real.is_special, real.encode(document)))


@pytest.mark.parametrize(
    ("unit", "written", "expected"),
    [
        ("  ", "f():\n    if x:\n        y()\n", "f():\n  if x:\n    y()\n"),
        ("\t", "f():\n    if x:\n        y()\n", "f():\n\tif x:\n\t\ty()\n"),
        ("    ", "f():\n\tif x:\n\t\ty()\n", "f():\n    if x:\n        y()\n"),
        ("", "f():\n    y()\n", "f():\n    y()\n"),
    ],
)
def test_a_document_without_indentation_takes_that_of_its_editor(
    unit: str, written: str, expected: str
) -> None:
    assert Seams("def ", "", "python", indentation=unit).finish(written) == expected


def test_a_document_with_indentation_keeps_its_own() -> None:
    before = "def g():\n        z()\n\n\ndef "
    written = "f():\n        y()\n"
    assert Seams(before, "", "python", indentation="  ").finish(written) == written
