"""Repairs that take no model: the smallest change with which all parses."""

from __future__ import annotations

import pytest

from lsp_server.faults import faults
from lsp_server.repair import repaired

# language, text, where the cursor is, the text as mended
REPAIRS = [
    ("python", "def read(p):\n    return p\n\n\ndef lines(p)\n    return read(p)\n", "def lines",
     "def read(p):\n    return p\n\n\ndef lines(p):\n    return read(p)\n"),
    ("python", "def f(x):\n    return (x + 1\n\n\nprint(f(2))\n", "return",
     "def f(x):\n    return (x + 1)\n\n\nprint(f(2))\n"),
    ("python", "def f(x):\n    return (x + 1\n\n\nprint(f(2))\n", "print",
     "def f(x):\n    return (x + 1)\n\n\nprint(f(2))\n"),
    ("python", "def f(:\n    return 1\n", "f", "def f():\n    return 1\n"),
    ("python", "for i in range(9:\n    print(i)\n", "i", "for i in range(9):\n    print(i)\n"),
    ("python", "print('done)\ny = 1\n", "done", "print('done')\ny = 1\n"),
    ("python", "print(y))\n", "y", "print(y)\n"),
    ("python", "x = = 3\n", "x", "x = 3\n"),
    ("python", "class A  # a class\n    x = 1\n", "A", "class A:  # a class\n    x = 1\n"),
    ("python", "if x == 1\n    y = 1\nelse\n    y = 2\n", "if",
     "if x == 1:\n    y = 1\nelse\n    y = 2\n"),
    ("python", "def f(x):\n    retrun x\n", "x", "def f(x):\n    return x\n"),
    ("python", "def f(x):\n    if x:\n        pass\n    esle:\n        return 1\n", "esle",
     "def f(x):\n    if x:\n        pass\n    else:\n        return 1\n"),
    ("python", "def f(x)\r\n    return x\r\n", "f", "def f(x):\r\n    return x\r\n"),
    ("python", "s = '𝕏é'\n\n\ndef f(x)\n    return x\n", "f",
     "s = '𝕏é'\n\n\ndef f(x):\n    return x\n"),
    # what the grammar lets pass and the compiler refuses
    ("python", "if x:\nprint(x)\n", "print", "if x:\n    print(x)\n"),
    ("python", "x = 1\n  y = 2\nz = 3\n", "y", "x = 1\ny = 2\nz = 3\n"),
    ("python", "class A:\n    def f(self):\n        x = 1\n      return x\n", "return",
     "class A:\n    def f(self):\n        x = 1\n        return x\n"),
    ("python", "def f():\n\treturn 1\n        x = 2\n", "x", "def f():\n\treturn 1\n\tx = 2\n"),
    ("python", "def f():\n\n\ndef g():\n    return 1\n", "f",
     "def f():\n    pass\n\n\ndef g():\n    return 1\n"),
    ("python", "print \"hello\"\n", "print", "print(\"hello\")\n"),
    ("javascript", "f(a,, b);\n", "f", "f(a, b);\n"),
    ("go", "package m\n\nvar a = []int{\n\t1,\n\t2\n}\n", "2",
     "package m\n\nvar a = []int{\n\t1,\n\t2,\n}\n"),
    ("rust", "fn f() {\n    println!(\"{}\", x;\n}\n", "println",
     "fn f() {\n    println!(\"{}\", x);\n}\n"),
    # what is wrong elsewhere is left
    ("python", "def f(x)\n    return x\n\n\ndef g():\n    y = 1\n      z = 2\n", "f",
     "def f(x):\n    return x\n\n\ndef g():\n    y = 1\n      z = 2\n"),
    ("javascript", "function f(a) {\n  if (a {\n    return 1;\n  }\n}\n", "if",
     "function f(a) {\n  if (a) {\n    return 1;\n  }\n}\n"),
    ("javascript", "function f(a) {\n  return 1;\n", "return", "function f(a) {\n  return 1;\n}\n"),
    ("javascript", "const x = [1, 2;\nconst y = 2;\n", "x", "const x = [1, 2];\nconst y = 2;\n"),
    ("typescript", "interface A {\n  a: number\n\nconst x = 1;\n", "a:",
     "interface A {\n  a: number\n}\n\nconst x = 1;\n"),
    ("tsx", "const a = (b) => {\n  return <p>{b}</p>;\n", "return",
     "const a = (b) => {\n  return <p>{b}</p>;\n}\n"),
    ("c", "int f(int a) {\n  int x = 3\n  return x;\n}\n", "x",
     "int f(int a) {\n  int x = 3;\n  return x;\n}\n"),
    ("c", "int f(int a) {\n  if (a) {\n    g();\n  return a;\n}\n\nint h(void) {\n}\n", "g",
     "int f(int a) {\n  if (a) {\n    g();\n  }\n  return a;\n}\n\nint h(void) {\n}\n"),
    ("cpp", "int f() {\n  std::vector<int> v = {1, 2;\n  return 1;\n}\n", "v",
     "int f() {\n  std::vector<int> v = {1, 2};\n  return 1;\n}\n"),
    ("java", "class A {\r\n  int f() {\r\n    return;\r\n\r\n  int g() { return; }\r\n}\r\n", "ret",
     "class A {\r\n  int f() {\r\n    return;\r\n  }\r\n\r\n  int g() { return; }\r\n}\r\n"),
    ("go", "package m\n\nfunc f() int {\n\treturn g(1\n}\n", "return",
     "package m\n\nfunc f() int {\n\treturn g(1)\n}\n"),
    ("go", "package m\n\nfunc f() int {\n\tif x == 1\n\t\treturn 1\n\t}\n\treturn 2\n}\n", "if",
     "package m\n\nfunc f() int {\n\tif x == 1 {\n\t\treturn 1\n\t}\n\treturn 2\n}\n"),
    ("rust", "fn f() -> u8 {\n    let x = 3\n    x\n}\n", "let",
     "fn f() -> u8 {\n    let x = 3;\n    x\n}\n"),
    ("lua", "local function f(a)\n  if a\n    return 1\n  end\nend\n", "if",
     "local function f(a)\n  if a then\n    return 1\n  end\nend\n"),
    ("lua", "local function f(a)\n  if a then\n    return 1\nend\n", "if",
     "local function f(a)\n  if a then\n    return 1\n  end\nend\n"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text", "cursor", "mended"), REPAIRS)
def test_a_small_error_is_mended(language: str, text: str, cursor: str, mended: str) -> None:
    before = faults(text, language)
    change = repaired(text, language, text.index(cursor))
    assert before and change is not None
    assert change.made_in(text) == mended


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "x = 1\n"),
        ("python", "x = 5 +\ny = 2\n"),
        ("python", "def f(x):\n    try:\n        g()\n    return 1\n"),
        ("python", "f(a=1, 2)\n"),
        ("javascript", "let name other = 1;\n"),
        ("", "x = (\n"),
        ("cobol", "x = (\n"),
    ],
)
def test_what_no_small_change_mends_is_left(language: str, text: str) -> None:
    assert repaired(text, language, 0) is None


def test_of_two_errors_the_one_at_the_cursor_is_mended() -> None:
    text = "def f(x)\n    return x\n\n\ny = 1\n\n\ndef g(x)\n    return x\n"
    for name in ("f", "g"):
        change = repaired(text, "python", text.index(f"def {name}"))
        assert change is not None
        assert change.made_in(text) == text.replace(f"def {name}(x)", f"def {name}(x):")


def test_a_large_file_is_not_parsed_for_ever() -> None:
    text = "x = 1\n" * 160_000 + "def f(x)\n    return x\n"
    change = repaired(text, "python", len(text) - 5)
    assert change is None or change.new == ":"
