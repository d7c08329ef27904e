"""Whether a cursor stands in code, in a comment or in a string."""

from __future__ import annotations

import pytest

from blockdiff.syntax.region import Region, region_at

CODE, COMMENT, STRING = Region.CODE, Region.COMMENT, Region.STRING


@pytest.mark.parametrize(
    ("language", "text", "region"),
    [
        ("python", "x = 1  # no|te\n", COMMENT),
        ("python", "x = 1  # note|\n", COMMENT),
        ("python", "# note\n|\nx = 1\n", CODE),
        ("python", "x = |1  # note\n", CODE),
        ("python", "x = 'a|b'\n", STRING),
        ("python", "x = '|'\n", STRING),
        ("python", "x = 'ab'|\n", CODE),
        ("python", "x = '|\n", STRING),  # the quote that ends it is not typed yet
        ("python", "x = f'a{y|}b'\n", CODE),
        ("python", "x = f'a{y}|b'\n", STRING),
        ("python", 'def f():\n    """Say |."""\n', STRING),
        ("python", "x = 'é' + y|\n", CODE),
        ("python", "x = 'a' 'b' |\n", CODE),
        ("javascriptreact", "const x = `a ${b|}`;\n", CODE),
        ("javascript", "const x = `a| ${b}`;\n", STRING),
        ("typescript", "f(); // x|\n", COMMENT),
        ("typescript", "f(); /* x| */\n", COMMENT),
        ("typescript", "f(); /* x */|\n", CODE),
        ("go", "x := `a|`\n", STRING),
        ("go", "func f() {\n\t// x|\n}\n", COMMENT),
        ("rust", "/// Says it.\n|fn f() {}\n", CODE),
        ("rust", "/// Says| it.\nfn f() {}\n", COMMENT),
        ("rust", 'fn f() { g("a|"); }\n', STRING),
        ("c", "int x; /* a|\n*/\n", COMMENT),
        ("cpp", 'auto s = "a|";\n', STRING),
        ("java", 'class A { String s = "a|"; }\n', STRING),
        ("lua", "local x = [[a|]]\n", STRING),
        ("lua", "--[[ a ]]| x = 1\n", CODE),
        ("ruby", "x = 1 # a|\n", COMMENT),  # no grammar
        ("ruby", "x = 'a|'\n", STRING),
        ("", "|", CODE),
    ],
)
def test_where_the_cursor_stands(language: str, text: str, region: Region) -> None:
    at = text.index("|")
    assert region_at(text[:at] + text[at + 1 :], at, language) is region
