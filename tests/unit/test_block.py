"""Ghost text ends with the block that it is in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.infill.block import within_block

POP = "return self.items.pop()\n\n    def size(self):\n        return 1\n"


@pytest.mark.parametrize(
    ("line", "text", "kept"),
    [
        ("        ", POP, "return self.items.pop()"),
        ("def f(n):", "\n    return n\n\n\ndef g(n):\n    return 1\n", "\n    return n"),
        ("    ", "if a:\n        b()\n    else:\n        c()\nd()",
         "if a:\n        b()\n    else:\n        c()"),
        ("    if a: ", "b()\n    else:\n        c()\n", "b()\n    else:\n        c()\n"),
        ("function f(a) {", "\n  return a;\n}\n\nfunction g() {\n}", "\n  return a;\n}"),
        ("  ", "if (a) {\n    b();\n  } else {\n    c();\n  }\n}\ng();",
         "if (a) {\n    b();\n  } else {\n    c();\n  }\n}"),
        ("    try {", "\n        a();\n    } catch (e) {\n        b();\n    }\n}\n",
         "\n        a();\n    } catch (e) {\n        b();\n    }"),
        ("x = 1", "\ny = 2\nz = 3\n", "\ny = 2\nz = 3\n"),
        ("    s = ", '"""a\nb\nc"""\n    t = 2\n', '"""a\nb\nc"""\n    t = 2\n'),
        ("  local x = ", "1\n  return x\nend\n\nprint(1)", "1\n  return x\nend"),
        ("    return (", "\n        a\n    )\n", "\n        a\n    )"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_where_it_ends(line: str, text: str, kept: str) -> None:
    assert within_block(text, line, complete=True)[0] == kept


def test_a_line_that_still_grows_decides_nothing() -> None:
    assert within_block("a()\n    d", "        ", complete=False) == ("a()\n    d", False)
    assert within_block("a()\n    d\n", "        ", complete=False) == ("a()", True)


LINES = st.lists(st.sampled_from(["  a", "    b", "c", "}", "  } else {", "", "end", '"""']))


@given(LINES.map("\n".join), st.sampled_from(["", "  ", "    x = ", "f() {"]), st.booleans())
def test_it_keeps_a_beginning_and_saying_more_changes_no_verdict(
    text: str, line: str, complete: bool
) -> None:
    kept, enough = within_block(text, line, complete=complete)
    assert text.startswith(kept)
    if enough:
        assert within_block(text + "\nmore", line, complete=complete) == (kept, True)
