"""Where text ends: at what is behind the hole, at what was opened before it, with its construct.

`¦` is the hole; `raw` is what a model wrote into it, more often than not word for word.
"""

from __future__ import annotations

import pytest

from blockdiff.infill.seams import Seams
from blockdiff.types import Extent, FinishReason

LENGTH, EOM = FinishReason.LENGTH, FinishReason.EOM


def seams(language: str, text: str, extent: Extent = Extent.HOLE) -> Seams:
    prefix, suffix = text.split("¦")
    return Seams(prefix, suffix, language, extent=extent)


def stopped_at(found: Seams, raw: str) -> int | None:
    """How much has to be written before generation stops."""
    ends = (end for end in range(len(raw) + 1) if found.cut(raw[:end], final=False)[1])
    return next(ends, None)


# --- within a line


IN_LINE = [
    # the rest of the line, letters too
    ("python", "import os\npath = os.path.join(¦, 'file.txt')\n",
     "os.getcwd(), 'file.txt')\nprint(path)\n\n# os.path.join(os.getcwd(), 'fil", "os.getcwd()"),
    ("python", "point = {'x': ¦, 'y': 2}\nprint(point)\n",
     "1, 'y': 2}\nprint(point)\npoint['x'] = 3\nprint(point)\npoint['y'] = 4", "1"),
    ("python", "query = \"SELECT ¦ FROM users WHERE id = 1\"\n",
     '* FROM users WHERE id = 1"\n# query = "SELECT * FROM users WHERE id = 1', "*"),
    ("python", "def area(w, h):\n    return ¦  # square metres\n",
     "w * h  # square metres\n\ndef perimeter(w, h):\n    return 2 * (w + h)  # m", "w * h"),
    ("python", "def area(w, h):\n    return ¦  # square metres\n",
     "w * h # the area\n\ndef perimeter(w, h):\n    return 2 * (w + h)\n\nx = 1\n", "w * h"),
    ("python", "names = ['a', ¦, 'c']\n", "'b', 'c']\nnames.append('d')\nprint(names)\n", "'b'"),
    ("python", "for ¦ in enumerate(names):\n    print(i, name)\n",
     "i, name in enumerate(names):\n    print(i, name)\n\nfor i, name in names:\n", "i, name"),
    ("python", "for ¦ in enumerate(names):\n    print(i, name)\n", "i, name in", "i, name"),
    ("python", "result = [¦ for x in range(10) if x % 2]\n",
     "x for x in range(10) if x % 2 == 0]\nprint(result)\n\nresult = [x", "x"),
    ("python", "assert ¦, 'must be positive'\n",
     "x > 0, 'must be positive'\nassert x > 0, 'must be positive'\nassert x >", "x > 0"),
    ("python", "a, ¦ = b, a\n",
     "b = 1, 2\nprint(a, b)\na, b = b, a\nprint(a, b)\na, b = b, a\nprint(a, b)\na", "b"),
    ("python", "x = max(¦, key=len)\nprint(x)\n",
     '["apple", "fig"], key=len)\nprint(x)\n\nx = max(["apple", "b', '["apple", "fig"]'),
    ("python", "print(area(¦))\n", "3, 4))\nprint(area(5, 6))\nprint(area(7, 8))\nprint(", "3, 4"),
    ("python", "d = dict(a=1, ¦)\n", "b=2, c=3)\nprint(d)\nprint(d['a'])\nprint(d['b'])\n",
     "b=2, c=3"),
    # a condition, and no body
    ("python", "if ¦:\n    print('even')\n",
     "int(input()) % 2 == 0:\n    print('odd')\nelse", "int(input()) % 2 == 0"),
    ("javascript", "if (¦) {\n  console.log('even');\n}\n",
     "n % 2 === 0) {\n  console.log('even');\n} else {\n  console.log('odd');\n}\n", "n % 2 === 0"),
    ("lua", "if ¦ then\n  print('even')\nend\n",
     "n % 2 == 0 then\n  print('even')\nend\nif n % 2 == 1 then\n  pri", "n % 2 == 0"),
    # no second semicolon
    ("javascript", "function area(w, h) {\n    return ¦;\n}\n",
     "w * h;\n}\n\nfunction perimeter(w, h) {\n    return 2 * (w + h)", "w * h"),
    ("javascript", "function area(w, h) {\n    return ¦;\n}\n", "w * h;", "w * h"),
    ("rust", "fn area(w: u32, h: u32) -> u32 {\n    return ¦;\n}\n",
     "w * h;\n}\n\nfn main() {\n    let width = 30;\n    let height = 20;\n    pri", "w * h"),
    ("java", "class A {\n  int area(int w, int h) {\n    return ¦;\n  }\n}\n",
     "w * h;\n  }\n}\n\nclass B extends A {\n  int area(int w, int h) {\n    retur", "w * h"),
    ("c", "int area(int w, int h) {\n    return ¦; /* square metres */\n}\n",
     "w * h; /* square metres */\n}\n\nint area(int w, int h) {\n    return w * ", "w * h"),
    ("rust", "let v: Vec<i32> = ¦.collect();\n",
     "vec![1, 2];\nlet v2: Vec<i32> = v.iter().map(|x| x * 2).collect();\nlet v3", "vec![1, 2]"),
    ("javascript", "const x = a ? ¦ : null;\n",
     "b : c;\nconst y = a ? b : c;\nconst z = a ? b : c;\n\nconst x = a ? b : c;", "b"),
    # what was opened before the hole in its line
    ("javascript", "const s = `Hello ${¦}`;\n",
     "new Date().toLocaleTimeString()}!`;\n\nconsole.log(s);\n", "new Date().toLocaleTimeString()"),
    ("javascript", "console.log(`Total: ${¦} items`);\n",
     "items.length} items`);\nconsole.log(`Total: ${items.length", "items.length"),
    ("python", "print(f\"Total: {¦} items\")\n",
     'total_items} items")\nprint(f"Total: {total_items} items")\nprint(f"Tota', "total_items"),
    ("python", "msg = 'Could not open ¦'\nraise OSError(msg)\n",
     "file'\nraise OSError(msg)\n\nmsg = 'Could not open file'\nraise OSError(ms", "file"),
    ("python", "import re\nm = re.match(r'¦', line)\nif m:\n    print(m.group(1))\n",
     "(\\w+) is', 'Python is in the world')\nif m:\n    print(1)\nelse:\n    print(",
     "(\\w+) is"),
    ("go", 'func main() {\n\tfmt.Printf("¦\\n", 42)\n}\n',
     'Hello!\\n")\n\tfmt.Printf("The answer to life, the universe, and e', "Hello!"),
    ("go", "if err := ¦; err != nil {\n\treturn err\n}\n",
     "os.Remove(p); err != nil {\n\treturn err\n}\nif err := os.Remove(p +", "os.Remove(p)"),
    ("go", "func area(w, h int) int {\n\treturn ¦ // square metres\n}\n",
     "w * h // square metres\n}\n\nfunc area2(w, h int) float64 {\n\treturn float", "w * h"),
    ("cpp", "std::cout << ¦ << std::endl;\n",
     '"sum: " << sum << std::endl;\nstd::cout << "x" << std::endl;\n', '"sum: " << sum'),
    ("typescript", "const user: User = { name: ¦, age: 30 };\n",
     "'John', age: 30 };\nconst other: User = { name: 'J", "'John'"),
    ("tsx", '<div className="¦">{name}</div>;\n', 'hello">{name}</div>;\n', "hello"),
    # a line break at the end of a draft leaves no line for the rest
    ("typescript", "let x: ¦ = 1;\nlet y = 2;\n",
     "number = 1;\nlet y = 2;\nlet z = 1;\n", "number"),
    ("java", "int x = ¦;\nint y = 2;\n", "1;\nint y = 2;\nint z = x + y;\n", "1"),
    ("python", "from typing import Any, ¦, Union\n",
     "Dict, List, Union\nimport os\nimport sys\n", "Dict, List"),
    ("python", 're.compile(r"^(\\d+)¦$")\n', '-(\\d+)$")\nm = p.match(\'1-2\')\n', "-(\\d+)"),
    ("rust", "fn area(w: u32, h: u32) -> u32 {\n    ¦ // square metres\n}\n",
     "w * h // square metres\n}\n\nfn main() {\n", "w * h"),
    # raw strings, and marks of a comment within a word
    ("rust", '    let s = r#"¦"#;\n', '{"a": 1}"#;\n    let v = from_str(s);\n', '{"a": 1}'),
    ("cpp", 'auto s = R"x(¦)x";\n', '{"a": (1)}")x";\nstd::cout << s;\n', '{"a": (1)}"'),
    ("shell", "echo ${#¦[@]}\n", "arr[@]}\necho ${arr[0]}\n", "arr"),
    ("shell", 'case "$1" in ¦) echo x;; esac\n', "start) echo x;; esac\n", "start"),
    # languages without a grammar here
    ("makefile", "all: ¦ test\n", "build test\n\tgo build\n", "build"),
    ("sql", "SELECT ¦ FROM users WHERE id = 1;\n",
     "* FROM users WHERE id = 1;\nSELECT * FROM users WHERE id = 1;\nSELECT * ", "*"),
    ("css", "a { color: ¦; margin: 0 }\n", "#000; text-decoration: none; padding: 10px }", "#000"),
    ("yaml", "name: ¦  # the name\nversion: 1\n",
     "my-app\ndescription: A simple Python application\nversion: 1.0.0\n", "my-app"),
    ("json", '{"name": ¦, "version": 1}\n', '"example", "version": 1}\n', '"example"'),
    ("html", '<a href="¦">Home</a>\n', '/home">Home</a>\n<a href="/about">About</a>\n', "/home"),
    ("shell", "for f in ¦; do\n  echo $f\ndone\n", "*.txt; do\n  echo $f\ndone\n", "*.txt"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text", "raw", "kept"), IN_LINE)
@pytest.mark.parametrize("extent", [Extent.HOLE, Extent.LINE])
def test_the_rest_of_the_line_comes_once(
    language: str, text: str, raw: str, kept: str, extent: Extent
) -> None:
    found = seams(language, text, extent)
    assert found.finish(raw, LENGTH) == kept
    if raw.endswith(("\n", "else", " in", "h;")):  # where the model itself came to an end
        assert found.finish(raw, EOM) == kept
    stop = stopped_at(found, raw)
    lines = raw.count("\n")
    assert stop is not None or lines < (4 if extent is Extent.HOLE else 1)


PY_CALL = "__all__, ¦, __dir__ = relative_import(\n    __name__,\n    [],\n)\n"
LUA_LOOP = "while ¦ == new:byte(#new - at) do\n  at = at + 1\nend\n"


@pytest.mark.parametrize("extent", [Extent.HOLE, Extent.LINE])
@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        # nothing but that
        ("python", PY_CALL, "__dir__ = relative_import(\n    __name__,\n    ['a'],\n    'b", ""),
        ("python", "class A:\n    def f(self, ¦, timeout=3):\n        pass\n",
         "timeout=3):\n        pass\n\n    def g(", ""),
        ("javascript", "export function ¦(date, options) {\n  return date;\n}\n",
         "date, options) {\n  return date;\n}\n\nexport", ""),
        ("go", "if err := ¦.fr.Write(p); err != nil {\n\treturn err\n}\n",
         "fr.Write(p); err != nil {\n\treturn err\n}\n\nif err", ""),
        ("java", "class A {\n  public ¦ trace(Object m) {\n    log(m);\n  }\n}\n",
         "trace(Object m) {\n    log(m);\n  }\n\n  public void", ""),
        ("c", "for (i = 0; ¦ < size; i++) {\n  f(i);\n}\n", "size; i++) {\n  f(i);\n}\nfor (", ""),
        ("cpp", "set(¦, level::info, [](int x) {\n  f(x);\n});\n",
         "level::info, [](int x) {\n  f(x);\n});\nset(", ""),
        ("lua", LUA_LOOP, "new:byte(#new - at) do\n  at = at + 1\nend\nwhile", ""),
        ("shell", 'while ¦ && test "$n" -gt 0; do\n  f\ndone\n',
         'test "$n" -gt 0; do\n  f\ndone\nwhile tr', ""),
        # behind what belongs there
        ("python", PY_CALL, "__getattr__ = relative_import(\n    'x',\n    y", "__getattr__"),
        ("javascript", "run.on(¦, options, function () {\n  f();\n});\n",
         "'end', function () {\n  g();\n});\n\nrun.on('e", "'end'"),
        ("typescript", "const ¦: Map<string, number> = new Map([\n\t['a', 1],\n]);\n",
         "ICONS = new Map([\n\t['b', 2],\n\t['c", "ICONS"),
        ("rust", "let ¦ = object.add(write::Symbol {\n    size: 0,\n});\n",
         "symbol.add(write::Symbol {\n    kind: 1,\n    siz", "symbol"),
        ("lua", LUA_LOOP, "old(#new - at) do\n  at = at + 1\nend\nwhile", "old"),
    ],
)  # fmt: skip
def test_the_end_of_the_line_comes_once_without_its_start(
    language: str, text: str, raw: str, kept: str, extent: Extent
) -> None:
    found = seams(language, text, extent)
    assert found.finish(raw, LENGTH) == kept
    assert found.finish(raw.split("\n", 1)[0], EOM) == kept


@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        ("python", "a, ¦, c = f(\n    1,\n    2,\n)\n", "b = g(\n    1,\n)\nx = 1\ny = 2\n", "b"),
        ("python", "if ¦ and y:\n    f()\n", "x:\n    g()\nelse:\n    k()\n", "x"),
        ("python", "while g.size¦ > 0:\n    f()\n", "() > 0:\n    h()\n\n\ndef i():\n", "()"),
        ("javascript", "app.get(¦, auth, (req, res) => {\n  f();\n});\n",
         "'/', (req, res) => {\n  g();\n});\n", "'/'"),
        ("typescript", "const a: ¦ = {\n  b: 1,\n};\n",
         "Map<string, number> = {\n  c: 1,\n};\n", "Map<string, number>"),
        ("go", "func f() {\n\tif ¦ && b {\n\t\tg()\n\t}\n}\n", "a > 0 {\n\t\th()\n\t}", "a > 0"),
        ("rust", "impl ¦ for B {\n    fn f() {}\n}\n", "A for C {\n    fn g() {}\n}\n", "A"),
        ("java", "class A {\n  public ¦ f(int a) {\n    return 1;\n  }\n}\n",
         "int g(int b) {\n    return 2;\n  }\n", "int"),
        ("c", "static ¦ f(int a) {\n  return 1;\n}\n", "int g(int b) {\n  return 2;\n}\n", "int"),
        ("cpp", "each(¦, [](int a) {\n  f();\n});\n", "v, [](int b) {\n  g();\n});\n", "v"),
        ("lua", "if ¦ and x then\n  f()\nend\n", "y then\n  g()\nend\n", "y"),
        ("shell", 'for a in ¦ "$b"; do\n  f\ndone\n', "x y; do\n  g\ndone\n", "x y"),
    ],
)  # fmt: skip
def test_a_head_with_other_names_comes_once(language: str, text: str, raw: str, kept: str) -> None:
    for extent in Extent.HOLE, Extent.LINE:
        found = seams(language, text, extent)
        assert found.finish(raw, LENGTH) == kept
        assert found.finish(raw, EOM) == kept


def test_generation_stops_where_the_next_line_comes_next() -> None:
    found = seams("lua", LUA_LOOP)
    line = "new:byte(#new - at) do\n"
    assert stopped_at(found, line + "  at = at + 2\n  f(at)\nend\n") is None
    assert stopped_at(found, line + "  at = at + 1\n  f(at)\nend\n") == len(line) + 13


@pytest.mark.parametrize(
    ("language", "text", "raw"),
    [
        ("python", "with open(¦) as f:\n    data = f.read()\n", "'example.txt', 'r'"),
        ("python", "x = f(¦)\n", "a) + g(b"),  # what it closes it opens again
        ("python", "x = f(¦, y)\n", "a, b"),
        ("python", "return ¦ + b\n", "a + c"),
        ("javascript", "const f = (¦) => a + b;\n", "a, b"),
        ("python", "for x in¦ < limit(a):\n        print(x)\n", " a:\n    if x"),
        ("python", "    x = f(¦)\n    y = 2\n", "a)\n    z = g(1"),
        ("python", "x = 'a' + '¦'\n", "b' + 'c"),
        ("python", "def f(x):\n    ¦return x\n", "if not x:\n        return 0\n    "),
        ("c", "a = 1; ¦;\n", "b = 2; c = 3"),
        ("cpp", "/*****¦*****/\n", "********"),
        ("typescript", 'import a from "a¦"\nimport c from "c"\n', 'a"\nimport b from "b'),
        ("python", "x = a + ¦ or b.c\n", "d - b.c"),
        ("javascript", "f(¦, function () {\n  b();\n});\n", "function () {\n  a();\n}"),
        ("rust", "f(¦, |a| {\n    g(a)\n});\n", "|b| {\n    h(b)\n}"),
    ],
)
def test_what_fits_into_the_line_stays(language: str, text: str, raw: str) -> None:
    found = seams(language, text)
    assert found.finish(raw) == raw
    assert stopped_at(found, raw) is None


@pytest.mark.parametrize("extent", [Extent.HOLE, Extent.BLOCK])
@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        # a block that the document opens in a line of its own
        ("c", "int f(¦\n{\n  return 1;\n}\n", "int x) {\n  return x;\n}\n\nint g(void)", "int x)"),
        ("c", "int f(int a,\n      ¦\n{\n  g();\n}\n", "int b)\n{\n  h();\n}\n", "int b)"),
        ("java", "class A {\n  int f(¦\n  {\n    g();\n  }\n}\n",
         "int x) {\n    h();\n  }\n", "int x)"),
        ("cpp", "if (¦\n{\n  g();\n}\n", "a > b) {\n  g();\n  h();\n}\n", "a > b)"),
        ("csharp", "while (¦\n{\n  G();\n}\n", "a > b) {\n  H();\n}\n", "a > b)"),
        ("shell", "if test ¦\nthen\n  f\nfi\n", '"$a" = b; then\n  g\nfi\n', '"$a" = b'),
        ("shell", "for a in ¦\ndo\n  f\ndone\n", "*.txt; do\n  g\ndone\n", "*.txt"),
        ("lua", "while ¦\ndo\n  f()\nend\n", "x < 3 do\n  g()\nend\n", "x < 3"),
        ("rust", "impl<G> ¦\nwhere\n    G: A,\n{\n    fn f() {}\n}\n",
         "B for C<G> where\n    G: A,\n{\n    fn g() {\n", "B for C<G>"),
        # what goes on there
        ("python", "x = f(a,¦\n      b, c)\ny = 1\n", " d, b, c)\n", " d,"),
        ("python", "x = f(a,¦\n      b, c)\ny = 1\n", " b, c)\ny = 2\n", ""),
        ("javascript", "const a = f(¦\n  b,\n);\n", "c, b,\n);\n", "c,"),
        ("javascript", "f¦\n  .then(x => x)\n  .catch(y);\n",
         "(a).then(x => x)\n  .catch(y);\n", "(a)"),
    ],
)  # fmt: skip
def test_what_the_next_line_says_comes_once(
    language: str, text: str, raw: str, kept: str, extent: Extent
) -> None:
    found = seams(language, text, extent)
    assert found.finish(raw, LENGTH) == kept
    assert found.finish(raw, EOM) == kept


@pytest.mark.parametrize(
    ("language", "text", "raw"),
    [
        ("cpp", "void f() {\n  ¦\n  {\n    g();\n  }\n}\n", "if (x) {\n    h();\n  }"),
        ("c", "int f(¦\n{\n  return 1;\n}\n", "struct {int x;} y)"),
        ("lua", "if x then\n  ¦\nend\n", "for a in b do\n    g(a)\n  end"),
        ("python", "x = [a, ¦\n     b]\n", "b,\n     c,"),
        ("shell", "echo ¦\ndo\n", "to do, undo"),
    ],
)
def test_what_only_looks_like_the_next_line_stays(language: str, text: str, raw: str) -> None:
    assert seams(language, text).finish(raw) == raw


def test_a_comment_at_the_cursor_is_about_the_line_below() -> None:
    raw = "Why.\n    z = 3\n    w = 4\n"
    for text in ("if x:\n    # ¦\n    y = 1\n", "if x:\n    # ¦\n    # More.\n"):
        found = seams("python", text, Extent.BLOCK)
        assert found.finish(raw, EOM) == "Why."
        assert stopped_at(found, raw) == raw.index("z") + 1
    for text in ("if x:\n    # ¦\n\n    y = 1\n", "if x:\n    # ¦\ny = 1\n"):
        assert seams("python", text, Extent.BLOCK).finish(raw, EOM) == raw.rstrip()


# --- the end of what is written


@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        # the function
        ("python", "def is_even(n):\n    return ¦",
         "n % 2 == 0\n\nprint(is_even(4))  # Output: True\nprint(is_even(5))  # Output: False\n",
         "n % 2 == 0"),
        ("python", "def total(xs):\n    ¦\n", "return sum(xs)\n\n\ntotal([1, 2])  # Output: 3\n",
         "return sum(xs)"),
        ("python", "class Stack:\n    def push(self, x):\n        ¦",
         "self.items.append(x)\n\n    def pop(self):\n        return self.items.pop()\n",
         "self.items.append(x)"),
        ("python", "def total(xs):\n    ¦\n\n\nprint(total([1]))\n",
         "return sum(xs)\n\n\nif __name__ == '__main__':\n    main()\n", "return sum(xs)"),
        ("javascript", "function fib(n) {\n  ¦",
         "return n;\n}\n\nconsole.log(fib(10)); // Output: 55\n", "return n;\n}"),
        ("javascript", "f();\n¦", "g();\n/* Output:\nhi\n*/\n", "g();"),
        ("java", "class A {\n  int fib(int n) {\n    ¦",
         "return n;\n  }\n}\n\nclass B {\n  int f() {\n", "return n;\n  }\n}"),
        ("rust", "fn fib(n: u64) -> u64 {\n    ¦",
         "n\n}\n\nfn main() {\n    println!(\"{}\", fib(10));\n}\n", "n\n}"),
        ("lua", "local function fib(n)\n  ¦",
         "return n\nend\n\nprint(fib(10)) -- Output: 55\n", "return n\nend"),
        # a construct of its own
        ("python", "def f():\n    return 1\n\n\n¦", "def g():\n    return 2\n\n\ndef h():\n    r",
         "def g():\n    return 2"),
        ("python", "def f():\n    return 1\n\n\n¦",
         "print(f())  # Output: 1\nprint(f())  # Output: 1\n", "print(f())"),
        ("go", "package main\n\n¦",
         "import \"fmt\"\n\nfunc f() int {\n\treturn 1\n}\n\nfunc g() {\n",
         "import \"fmt\"\n\nfunc f() int {\n\treturn 1\n}"),
        # a block, in a language of which no more is known
        ("ruby", "def add(a, b)\n  ¦\nend\n", "a + b\nend\n\ndef less(a, b)\n  a - b\n", "a + b"),
        ("shell", "f() {\n  ¦\n}\n", "echo hi\n}\n\ng() {\n    echo ho\n}\n", "echo hi"),
        # a fence, and prose
        ("python", "def main():\n    print(\"hi\")\n\n\n¦\n",
         "main()\n```\n\nThis Python script defines two functions that load and save.\n", "main()"),
        ("python", "def main():\n    print(\"hi\")\n\n\n¦\nx = 1\n",
         "main()\n\nThis Python script defines two functions, load and save.\n", "main()"),
        ("go", "func main() {\n\tprintln(1)\n}\n\n¦\nvar x = 1\n",
         "func f() {\n}\n```\nThe function does nothing.\n", "func f() {\n}"),
        ("sql", "SELECT ¦\n", "id FROM users;\n```\n", "id FROM users;"),
        ("lua", "local M = {}\n\n¦\nreturn M\n",
         "function M.f() end\n\nThis module defines a function f that does it.\n",
         "function M.f() end"),
        *(("python", "x = 1\n¦\ny = 2\n", f"z = 3\n\n{prose}\n", "z = 3") for prose in (
            "Объяснение: этот код делает то и это.", "以下是代码的解释：", "1. **z**: It is set.",
            "이 코드는 변수 z 를 정의하고 출력합니다.", "- The variable z is set to three here.",
        )),
        # a clause that stands behind the hole
        ("python", "if x:\n    ¦\nelse:\n    y()\n", "x()\nelse:\n    z()\n", "x()"),
        ("python", "if x:\n    y = ¦\nelse:\n    y = 2\n", "1\nelse:\n    y = 3\nf(y)\n", "1"),
        ("python", "match x:\n    case 1:\n        ¦\n    case _:\n        z()\n",
         "y()\n    case _:\n        w()\n", "y()"),
        ("javascript", "try {\n  ¦\n} catch (e) {\n  z();\n}\n", "y();\n} finally {\n  w();\n}\n",
         "y();"),
        ("lua", "if x then\n  ¦\nelse\n  z()\nend\n", "y()\nelse\n  w()\nend\n", "y()"),
        ("cpp", "if (x)\n{\n    ¦\n}\nelse\n{\n    z();\n}\n", "y();\n}\nelse\n{\n    w();\n}\n",
         "y();"),
        ("c", "switch (x) {\ncase 1:\n  ¦\n  break;\ndefault:\n  z();\n}\n",
         "y();\n  break;\ndefault:\n  w();\n}\n", "y();"),
        ("go", "func f() {\n\tswitch x {\n\tcase 1:\n\t\t¦\n\tdefault:\n\t\tz()\n\t}\n}\n",
         "y()\n\tdefault:\n\t\tw()\n\t}\n}\n", "y()"),
        # what repeats
        ("python", 'x = f"{¦}"\n', "1" + "0" * 64, "10"),
        ("html", "<p>¦</p>\n", "&nbsp;" * 12, "&nbsp;"),
        ("c", "int a[] = {¦};\n", "0x00, " * 16, "0x00"),
        ("css", "a {\n  ¦\n}\n", "margin: 0;\n  " * 8, "margin: 0;"),
        ("sql", "SELECT id, ¦", "name, age, " * 12, "name, age"),
        ("python", 'print("done¦', '")\n' + 'print("done")\n' * 6, '")'),
        ("html", "<ul>\n  ¦\n</ul>\n", "<li>One item</li>\n" + "  <li>One item</li>\n" * 6,
         "<li>One item</li>"),
        # talk within a block that is never closed
        ("java", "class A {\n    int f() {\n        ¦",
         "return 1;\n    }\n\nThis code defines a function that returns a number.\n\nYou can",
         "return 1;\n    }"),
        # a docstring
        ("python", 'def total(xs):\n    """¦"""\n    return sum(xs)\n',
         'Sum of xs."""\n    return sum(xs)\n\n\ndef average(xs):\n', "Sum of xs."),
        ("python", 'def total(xs):\n    """\n    ¦\n    """\n    return sum(xs)\n',
         'Sum of xs.\n    """\n    return sum(xs)\n', "Sum of xs."),
        ("javascript", "/**\n * ¦\n */\nfunction f() {}\n", "Does it.\n */\nfunction g() {}\n",
         "Does it."),
    ],
)  # fmt: skip
def test_it_ends_with_what_it_began(language: str, text: str, raw: str, kept: str) -> None:
    found = seams(language, text)
    assert found.finish(raw, LENGTH).rstrip() == kept
    assert found.finish(raw, EOM).rstrip() == kept
    stop = stopped_at(found, raw)
    assert stop is not None and stop <= len(raw)
    assert found.has_ended(raw)


@pytest.mark.parametrize(
    ("language", "text", "raw"),
    [
        ("python", "# ¦\nx = 1\n", "=-" * 40),
        ("python", "def f():\n    ¦", "if x:\n        return 1\n    else:\n        return 2"),
        ("python", "def f():\n    return 1\n\n\n¦", "@cache\ndef g():\n    x = 1\n\n    return x"),
        ("python", "x = 1\n¦", "try:\n    f()\nexcept OSError:\n    pass"),
        ("python", "if x:\n    ¦\nelse:\n    y()\n", "if a:\n        b()\n    else:\n        c()"),
        ("python", "if x:\n    ¦\nelse:\n    y()\n", "a()\nelif b:\n    c()"),
        ("python", "try:\n    ¦\nfinally:\n    y()\n", "a()\nexcept E:\n    c()\nelse:\n    d()"),
        ("python", "¦\ny = 2\n", "名前 = [1, 2]\n# これは合計です。\n合計 = sum(名前)"),
        ("java", "¦\nclass A {}\n", "Foo bar, baz, qux;\npublic static final int A = 1;"),
        ("python", "x = [\n    ¦\n]\n", "0, 0, 0, 0, 0, 0, 0, 0, 0, 0,"),
        ("python", "¦\n", "# " + "-" * 60),
        ("c", "char s[] = ¦;\n", '"' + "=" * 70 + '"'),
        ("javascript", "¦\nf();\n", "  </div>\n    </div>\n  </div>\n</div>"),
        ("python", "s = '''\n¦\n'''\n", "Use it like this:\n```\nf()\n```\nThis is all of it."),
        ("markdown", "# Title\n\n¦\n", "This is how it is used:\n\n```\nf()\n```"),
        ("python", "¦\nx = 1\n", "# This comment has many words in it, as some have.\ny = 1"),
        ("sql", "¦\n", "SELECT name FROM users\nWHERE age > 18 AND name IS NOT NULL;"),
        ("rust", "¦\n", "pub fn f() -> (i32, i32, i32) {\n    (0, 0, 0)\n}"),
    ],
)
def test_what_belongs_together_stays(language: str, text: str, raw: str) -> None:
    found = seams(language, text)
    assert found.finish(raw).rstrip() == raw
    assert stopped_at(found, raw) is None
    assert not found.has_ended(raw)


# --- extents


@pytest.mark.parametrize(
    ("extent", "language", "text", "raw", "kept"),
    [
        (Extent.LINE, "python", "f(¦)\n", "a, b)\nmore", "a, b"),
        (Extent.LINE, "python", "x = [1, ¦]  # list\n", "2]\nrest", "2"),
        (Extent.LINE, "python", "x = ¦\n", "1\ny = 2", "1"),
        (Extent.BLOCK, "javascript", "function f(a) {\n  return ¦\n}\n",
         "a;\n}\n\nfunction g() {\n", "a;"),
        (Extent.BLOCK, "javascript", "function f(a) {\n  return ¦\n",
         "a;\n}\n\nfunction g() {\n", "a;\n}"),
        (Extent.BLOCK, "python", "def f(a):\n    ¦\n", "return a\n\n\ndef g():\n  x", "return a"),
        (Extent.BLOCK, "python", "x = 1\n\n¦\n\ndef h():\n    pass\n",
         "def f():\n    return 1\n\n\ndef g():\n    return 2\n", "def f():\n    return 1"),
        (Extent.BLOCK, "go", "func f() {\n\t¦\n}\n",
         "if x {\n\t\tg()\n\t}\n}\n\nfunc g() {\n", "if x {\n\t\tg()\n\t}"),
        (Extent.BODY, "python", "def f(xs):\n    ¦\n\n\nx = 1\n",
         "s = 0\n    for x in xs:\n        s += x\n    return s\n\n\n# more\ny = 2\n",
         "s = 0\n    for x in xs:\n        s += x\n    return s"),
        (Extent.BODY, "python", "class A:\n    def f(self):\n        ¦\n\n    x = 1\n",
         "return 1\n\n    def g(self):\n        return 2\n", "return 1"),
        (Extent.BODY, "go", "func f() int {\n\t¦\n}\n", "if x {\n\t\treturn 1\n\t}\n\treturn 2\n}",
         "if x {\n\t\treturn 1\n\t}\n\treturn 2"),
        (Extent.BODY, "c", "int f() {¦}\n", "\n  return 1;\n}\n\nint g() {\n", "\n  return 1;"),
        (Extent.BODY, "lua", "function f()\n  ¦\nend\n", "return 1\nend\n\nfunction g()\n",
         "return 1"),
        (Extent.DELIMITER, "python", 'def f():\n    """¦"""\n    return 1\n',
         'One.\n\n    Returns:\n        1\n    """\n    return 1\n',
         "One.\n\n    Returns:\n        1"),
        (Extent.DELIMITER, "java", "/**\n * ¦\n */\nint f() {\n", "One.\n */\nint g() {", "One."),
        (Extent.DELIMITER, "go", "// ¦\nfunc F() {}\n", "F does it.\n// And more.\nfunc G() {",
         "F does it.\n// And more."),
        (Extent.DELIMITER, "lua", "--- ¦\nfunction f()\nend\n", "Does it.\n\n\nfunction g()",
         "Does it."),
        (Extent.DELIMITER, "rust", "/// ¦\nfn f() {}\n", "Does it.\n///\n/// Twice.\nfn g() {}",
         "Does it.\n///\n/// Twice."),
        (Extent.DELIMITER, "python", "x = '¦'\n", "a'\ny = 'b'\n", "a"),
    ],
)  # fmt: skip
def test_an_extent_ends_it(extent: Extent, language: str, text: str, raw: str, kept: str) -> None:
    found = seams(language, text, extent)
    assert found.finish(raw, LENGTH).rstrip() == kept
    assert found.finish(raw, EOM).rstrip() == kept
    stop = stopped_at(found, raw)
    assert stop is not None and stop <= len(raw)


# --- cut off, or broken


JS_HEAD = "function weeks(date, ¦\n  const first = start(date);\n  return first;\n}\n"
PY_END = "def fib(¦"


@pytest.mark.parametrize("extent", [Extent.HOLE, Extent.BLOCK])
@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        # the end of a line: the statement, not what comes after it
        ("cpp", "void f() {\n    set(¦\n    load(1);\n}\n",
         'level::err);\n    const char *argv[] = {"a"};\n    load(2, argv);\n    auto l',
         "level::err);"),
        ("java", "package org.¦\n\nimport org.a.B;\n\npublic class C {\n}\n",
         "apache.http;\n\n/**\n * It is.\n */\npublic class C {\n\n    private sta",
         "apache.http;"),
        ("rust", "use ¦\nuse test::Bencher;\n", "crate::A;\nuse crate::B;\nuse crate::",
         "crate::A;"),
        ("javascript", JS_HEAD, "options = {}) {\n  // One.\n  // Two.\n  const a",
         "options = {}) {"),
        ("python", "class A:\n    def f(self, x):\n        self.¦\n\n\nclass B:\n    pass\n",
         "x = x\n\n\nclass C:\n    def f(self) -> None:\n        return 1\n\n    def", "x = x"),
        ("go", "func f() {\n\tvar opts []*¦\n\treturn\n}\n",
         "Option\n\tif a != nil {\n\t\topts = append(opts, &Opt", "Option"),
        ("shell", 'check "$a" ||\n    fail ¦\n\nrun "two"\n', '"no a"\n\nrun "one"\nrun "on',
         '"no a"'),
        # over several lines where it needs them, and with what is below it
        ("typescript", "const a = f(¦\nconst b = 1;\n",
         "x, {\n\ty: 1,\n});\nconst c = 2;\nconst d", "x, {\n\ty: 1,\n});"),
        ("python",
         PY_END, "n):\n    if n < 2:\n        return n\n    a = 1\n    return fib(n - 1) + f",
         "n):\n    if n < 2:\n        return n\n    a = 1"),
        ("python", "if x ¦\ny = 1\n", "> 0:\n    a()\n    b()\nz = 1\nw", "> 0:\n    a()\n    b()"),
        # a body: the last line up to which the document parses
        ("go", "func f() {\n\t¦\n}\n", "a()\n\tif b {\n\t\tc()\n\t}\n\n\tgo func() {\n\t\td(",
         "a()\n\tif b {\n\t\tc()\n\t}"),
        ("java", "class A {\n  void f() {\n    ¦\n  }\n}\n",
         "a();\n    for (int i = 0;\n        i <",
         "a();"),
        ("java", "class A {\n    int f() {\n        ¦",
         "return 1;\n    }\n\n    int g() {\n        return 2;\n    }\n\n    int h() {\n        re",
         "return 1;\n    }\n\n    int g() {\n        return 2;\n    }"),
        ("python", "def f(x):\n    ¦\n", "a = x\n    # the end\n    return [a,\n            b",
         "a = x"),
        ("shell", "f() {\n  ¦\n}\n", "local a=1\n  if test $a; then\n    log 'mo", "local a=1"),
        ("yaml", "steps:\n  - ¦\n", "run: a\n  - run: b\n  - ru", "run: a"),
        # a comment, a docstring, a string
        ("rust", "/// ¦\nstruct A {\n    b: u8,\n}\n",
         "Can be reset.\n/// And read.\n#[derive(Debug)]\npub struct A {\n    b: u",
         "Can be reset.\n/// And read."),
        ("python", "# ¦\nx = 1\n", "One sentence.\n# Another sen", "One sentence."),
        ("java", "/**\n * ¦\n */\nint a;\n", "A copy.\n * It may thr", "A copy."),
        ("markdown", "# Title\n\n¦\n", "One line.\n\n- a\n- b and", "One line.\n\n- a"),
        # nothing is known to be better
        ("python", "x = ¦\n", "a + b +", "a + b +"),
        ("c", "int f() {\n  return g(¦\n}\n", "a, b, c", "a, b, c"),
    ],
)  # fmt: skip
def test_a_text_that_was_cut_off_ends_with_a_whole_line(
    language: str, text: str, raw: str, kept: str, extent: Extent
) -> None:
    found = seams(language, text, extent)
    if extent is Extent.BLOCK and found.has_ended(raw):  # further ones are not begun
        assert kept.startswith(found.finish(raw, LENGTH))
        return
    assert found.finish(raw, LENGTH).rstrip() == kept
    assert not found.has_ended(raw)  # and is said to be cut off
    assert found.so_far(raw).startswith(kept)


@pytest.mark.parametrize("extent", [Extent.HOLE, Extent.BLOCK])
@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        ("rust", "#![cfg(all(¦\n\nuse a::b;\n", 'feature = "a"))]\nmod tls {\n    use super::*;',
         'feature = "a"))]'),
        ("rust", "fn f() {\n    let a = g()\n        .¦\n        .await?;\n}\n", "json();",
         "json()"),
        ("typescript", "const a = {\n\tb: ¦\n\tc: 3,\n};\n", "f(1),\n\tc: 2,\n\td: 3,\n};",
         "f(1),"),
        ("c", "void f() {\n\tif (a && ¦\n\t\treturn;\n}\n", "b) {", "b)"),
        ("lua", "g(function()\n  vim.¦\n  return a\nend)\n", "f(a)\nend)\n", "f(a)"),
        ("python", "if x:\n    # ¦\n    y = 1\n", "Why.\n    y = 2\n\n  z = 3", "Why."),
        ("go", "f(\n\t// ¦\n\ta,\n)\n", "Because.\n\tb,\n)\ng(", "Because."),
    ],
)  # fmt: skip
def test_what_does_not_fit_behind_a_statement_goes(
    language: str, text: str, raw: str, kept: str, extent: Extent
) -> None:
    assert seams(language, text, extent).finish(raw, EOM) == kept


@pytest.mark.parametrize(
    ("language", "text", "raw"),
    [
        # complete, and several lines
        ("cpp", "void f() {\n    set(¦\n    load(1);\n}\n", "a);\n    load(2);\n    load(3);"),
        ("python", "x = f(¦\ny = 2\n", "a,\n      b)\nz = 3"),
        # broken wherever it ends, or by a bracket that is missing elsewhere
        ("python", "x = ¦\ny = 2\n", "f(a b)\nz = 3"),
        ("java", "class A {\n  void f()\n    g(¦\n", "a);\n  }\n\n}"),
    ],
)
def test_what_a_model_ended_stays(language: str, text: str, raw: str) -> None:
    assert seams(language, text).finish(raw, EOM).rstrip() == raw


# --- white space


@pytest.mark.parametrize("extent", [Extent.HOLE, Extent.BLOCK])
@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        ("lua", "local function add(a, b)\n  ¦\nend\n\nprint(add(1, 2))\n", "  return a + b",
         "return a + b"),
        ("shell", "f() {\n  ¦\n}\n", "  echo hi", "echo hi"),
        ("python", "def f(x):\n    ¦\n", "    y = x\n    return y", "y = x\n    return y"),
        ("python", "def f(x):\n    ¦\n", "    if x:\n            y()\n        z()\n",
         "if x:\n        y()\n    z()"),
        ("python", "def f(x):\n  y = x + 1\n  ¦\n\nprint(f(2))\n", "return y\n\n  ", "return y"),
        # no line of text shows what a level is
        ("python", "def f(x):\n\t¦\n", "    y = x\n    return y\n", "y = x\n\treturn y"),
        ("go", "func f() int {\n\t¦\n}\n", "if x {\n        return 1\n    }\n    return 2",
         "if x {\n\t\treturn 1\n\t}\n\treturn 2"),
        ("python", "def f(x):\n  ¦\n", "y = x\n    if y:\n        return y\n",
         "y = x\n  if y:\n    return y"),
        # one level more is due
        ("python", "def f(x):\n    for y in x:\n    ¦\n", "    print(y)", "    print(y)"),
    ],
)  # fmt: skip
def test_blanks_before_the_cursor_come_once(
    language: str, text: str, raw: str, kept: str, extent: Extent
) -> None:
    assert seams(language, text, extent).finish(raw) == kept


def test_text_at_the_cursor_ends_with_a_complete_line() -> None:
    found = seams("yaml", "steps:\n  - ¦\n", Extent.BLOCK)
    assert found.finish("run: a\n  - run: b\n  - ru", LENGTH) == "run: a"
    assert found.finish("run: a\n  - run: b\n", EOM) == "run: a\n  - run: b"
    assert found.finish("run: a an", LENGTH) == "run: a an"
    assert not found.has_ended("run: a\n  - run: b\n  - ru")


def test_a_string_that_goes_on_to_the_limit_ends_where_it_is_closed() -> None:
    found = seams("typescript", 'type A = "¦" | "plain";\n')
    raw = 'one" | "two" | "three" | "four'
    assert found.finish(raw, LENGTH) == "one" and found.has_ended(raw)
    assert found.finish(raw, EOM) == raw


@pytest.mark.parametrize("extent", [Extent.HOLE, Extent.LINE])
@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        ("python", "t = '''SELECT ¦ FROM t'''\nprint(t)\n",
         "* FROM t WHERE i'''\nprint(t)\n\nt = '''SELECT *", "* FROM t WHERE i"),
        ("python", 't = """A ¦"""\nprint(t)\n', 'b c"""\nprint(t)\n\nt = """A d', "b c"),
        ("lua", "q = [[SELECT ¦ FROM t]]\nf(q)\n", "a FROM b]]\nf(q)\nq = [[SELECT", "a FROM b"),
        ("lua", "q = [==[SELECT ¦]==]\nf(q)\n", "a]]]==]\nf(q)\nq = [==[SEL", "a]]"),
        ("rust", 'let q = r#"SELECT ¦"#;\nf(q);\n', 'a FROM "b""#;\nf(q);\nlet', 'a FROM "b"'),
        ("cpp", 'auto q = R"(SELECT ¦)";\nf(q);\n', 'f(b))";\nf(q);\nauto q =', "f(b)"),
        ("java", 'q = """SELECT ¦ FROM t""";\n', 'a FROM u""";\nf(q);\nq = """SE', "a FROM u"),
        ("go", "q := `SELECT ¦ FROM t`\nf(q)\n", "a FROM u`\nf(q)\nq := `SEL", "a FROM u"),
        # a bracket that a line below closes
        ("c", "int a[] = {1, ¦,\n  3};\nint n;\n", "2, 3};\nint n;\nint b[] = {1, 2,", "2, 3"),
        ("python", "x = (1, ¦,\n     3)\nf(x)\n", "2, 3)\nf(x)\nx = (1, 2, 3", "2, 3"),
    ],
)  # fmt: skip
def test_what_was_opened_before_the_hole_is_closed_once(
    language: str, text: str, raw: str, kept: str, extent: Extent
) -> None:
    assert seams(language, text, extent).finish(raw, LENGTH) == kept


def test_blanks_before_a_comment_come_once() -> None:
    assert seams("lua", "return ¦ -- square metres\n").finish("w * h ") == "w * h"
    assert seams("python", "x = f(a,¦ b)\n").finish(" c,\t") == " c,"
    assert seams("python", "x = 'a ¦ b'\n").finish("c ") == "c "


def test_a_document_with_carriage_returns_keeps_them() -> None:
    found = seams("python", "def larger(a, b):\r    ¦\r\rprint(larger(1, 2))\r")
    raw = "if a > b:\n        return a\n    return b\n\nprint(larger(1, 2))\n"
    assert found.finish(raw) == "if a > b:\r        return a\r    return b"
