"""Where text ends that goes on with the lines below the hole, but for the first of them.

`¦` is the hole; `raw` is what a model wrote into it.
"""

from __future__ import annotations

import pytest

from blockdiff.infill.seams import Seams
from blockdiff.types import Extent, FinishReason

LENGTH, EOM = FinishReason.LENGTH, FinishReason.EOM

KINDS = ("any", "path", "int", "uuid")
ENTRIES = "".join(f'        "{kind}": {kind.title()}Converter,\n' for kind in KINDS)
CONVERTERS = f"def f(x):\n    return {{¦\n{ENTRIES}    }}\n"
TABLES = ("a", "users", "posts", "tags")
ROUTES = "".join(f"  app.get('/{name}', {name}.show);\n" for name in TABLES)


def seams(language: str, text: str, extent: Extent = Extent.HOLE) -> Seams:
    prefix, suffix = text.split("¦")
    return Seams(prefix, suffix, language, extent=extent)


@pytest.mark.parametrize("extent", [Extent.HOLE, Extent.BLOCK])
@pytest.mark.parametrize(
    ("language", "text", "raw", "kept"),
    [
        # brackets do without
        ("python", "CONVERTERS: dict[str, type[¦\n    'a': A,\n    'b': B,\n    'c': C,\n}\n",
         "Base]] = {\n    'b': B,\n    'c': C,\n}", "Base]] = {"),
        ("javascript", "const ¦\n  one: 'a',\n  two: 'b',\n};\n",
         "NAMES = {\n  two: 'b',\n};", "NAMES = {"),
        ("typescript", "interface ¦\n  name: string;\n  age: number;\n}\n",
         "User {\n  age: number;\n}", "User {"),
        ("go", "type T struct ¦\n\tName string\n\tAge  int\n}\n", "{\n\tAge  int\n}", "{"),
        ("rust", "match ¦\n    A => one(),\n    B => two(),\n    C => three(),\n}\n",
         "x {\n    C => three(),\n}", "x {"),
        ("java", "class A {\n  int[] x = ¦\n    one(1),\n    two(2),\n  };\n}\n",
         "{\n    two(2),\n  };", "{"),
        ("c", "static const char *names[] = ¦\n  \"one\",\n  \"two, too\",\n};\n",
         "{\n  \"two, too\",\n};", "{"),
        ("cpp", "enum class ¦\n  one = f(1),\n  two = f(2),\n};\n",
         "E {\n  two = f(2),\n};", "E {"),
        ("lua", "local t = ¦\n  one = f(1),\n  two = f(2),\n}\n", "{\n  two = f(2),\n}", "{"),
        # with what belongs there before it, a line changed within, or two left out
        ("python", CONVERTERS,
         '\n        "default": Default,\n        "path": PathConverter,\n'
         '        "int": IntConverter,\n        "uuid": UuidConverter,\n    }',
         '\n        "default": Default,'),
        ("python", CONVERTERS,
         '\n        "default": Default,\n        "path": PathConverter,\n'
         '        "int": IntegerConverter,\n        "uuid": UuidConverter,\n    }',
         '\n        "default": Default,'),
        ("python", CONVERTERS,
         '\n        "default": Default,\n        "int": IntConverter,\n'
         '        "uuid": UuidConverter,\n    }',
         '\n        "default": Default,'),
        ("typescript", "f({\n  package: ¦\n  names: values.get<string[]>('names', []),\n"
         "  timeout: values.get('timeout', 15),\n});\n",
         "'',\n  names: values.get('names', []),\n  timeout: values.get('timeout', 15),\n});",
         "'',"),
        ("javascript", "function f(a) {\n  ¦\n  }\n  done(1);\n  end(a, 2);\n}\n",
         "if (a) {\n    g({\n      x,\n    });\n  done(1);\n  end(a, 2);\n}",
         "if (a) {\n    g({\n      x,\n    });"),
        # many in a row tell enough, where brackets have nothing to say
        ("javascript", f"function routes(app) {{\n  app.use(¦\n{ROUTES}}}\n",
         "log);\n" + ROUTES.split("\n", 1)[1], "log);"),
        ("python", "y = ¦\nimport os\nx = f(y)\ng(x, y)\nprint(x + y)\n",
         "1\nx = f(y)\ng(x, y)\nprint(x + y)\n", "1"),
        ("shell", 'cd ¦\nmake clean\nmake -j "$n" all\nmake install\ncp -r a b\n',
         'src\nmake -j "$n" all\nmake install\ncp -r a b\n', "src"),
    ],
)  # fmt: skip
def test_lines_below_come_once_where_the_first_is_left_out(
    language: str, text: str, raw: str, kept: str, extent: Extent
) -> None:
    assert seams(language, text, extent).finish(raw, EOM) == kept


def test_a_copy_of_lines_below_is_not_gone_on_with() -> None:
    found = seams("javascript", f"function routes(app) {{\n  app.use(¦\n{ROUTES}}}\n")
    copy = ROUTES.split("\n", 1)[1]
    raw = "log);\n" + copy + "  app.listen(80);\n}\n\nfunction more() {\n"
    assert found.finish(raw[: 6 + len(copy) - 4], LENGTH) == "log);"
    assert not found.cut(raw[: 6 + len(copy) - 1], final=False)[1]
    assert found.cut(raw[: 6 + len(copy)], final=False)[1]


@pytest.mark.parametrize(
    ("language", "text", "raw"),
    [
        # a block much like the one below
        ("python", "¦\nassert f(2) == 3\nx = g(1)\nh(x, 2)\nassert x == 2\n",
         "assert f(1) == 2\nx = g(1)\nh(x, 2)\nassert x == 2"),
        ("java", "switch (a) {\n  case A:\n    ¦\n  case B:\n    x.f(1);\n    y.g(2);\n"
         "    return z.h(3);\n}\n", "x.f(1);\n    y.g(2);\n    return z.h(3);"),
        ("go", "x := []T{\n\t¦\n\t{\n\t\tname: \"b\",\n\t\tsize: 1,\n\t},\n}\n",
         "{\n\t\tname: \"a\",\n\t\tsize: 1,\n\t},"),
        ("typescript", "try {\n  f.a(x);\n} catch¦\n}\ntry {\n  f.b(x);\n} catch (e) {\n"
         "  log.fail(e);\n}\n",
         " (e) {\n  log.fail(e);\n}\ntry {\n  f.c(x);\n} catch (e) {\n  log.fail(e);"),
        # two lines that well come twice
        ("rust", "a.push(1);\n¦\nb.push(2);\nlog(&x, 1);\nsend(x);\n",
         "log(&x, 1);\nsend(x);"),
        ("c", "if (a) {\n  ¦\n}\nelse {\n  x = 2;\n  f(x, 1);\n  return x;\n}\n",
         "f(x, 1);\n  return x;"),
    ],
)  # fmt: skip
def test_lines_that_also_stand_below_stay(language: str, text: str, raw: str) -> None:
    for extent in Extent.HOLE, Extent.BLOCK:
        found = seams(language, text, extent)
        assert found.finish(raw, EOM) == raw
        assert not any(found.cut(raw[:end], final=False)[1] for end in range(len(raw) + 1))
