"""What tag queries find in a text of each language: names, heads without bodies, places."""

from __future__ import annotations

import pytest

from blockdiff.syntax import grammars
from blockdiff.workspace.definitions import definitions
from blockdiff.workspace.imports import Import, candidates, imports_of
from blockdiff.workspace.queries import TAGS
from blockdiff.workspace.receivers import receivers, types_of

PYTHON = '''LIMIT = 1
class Store(Base):
    """Keeps values.

    More of it."""
    size: int = 0
    def __init__(self, a):
        self.cache = {}
        def local(): pass
    @property
    def load(
        self,
        key: str,
    ) -> int:
        return 1
async def open_store(path: Path) -> Store:
    inner = 1
'''
TYPESCRIPT = """/** Keeps. */
export class Store<T> extends Base {
  private size: number = 0;
  /** Loads it. */
  async load(key: string): Promise<T> { return 1 }
}
export interface Shape { x: number; area(a: string): void }
export enum Color { Red, Green = 3 }
export type Name = string | number;
// Opens one.
export const open = async (path: string): Promise<Store> => { const inner = 1; };
function free(a: number) { const inner = 1; }
"""
JAVASCRIPT = """exports.open = function (a, b) { return 1 };
const LIMIT = 10;
class Store extends Base { static size = 1; load(key) { } }
"""
GO = """package x
// Store keeps.
type Store struct {
	Size int // of it
	mu   sync.Mutex
}
// Load loads.
func (s *Store) Load(key string) (int, error) { inner := 1; return inner, nil }
type Loader interface { Get(key string) int }
const Limit = 10
"""
RUST = """/// Keeps.
#[derive(Debug)]
pub struct Store<T> { pub size: usize }
impl<T> Loader for crate::x::Store<T> { fn load(&self) -> u8 { let inner = 1; inner } }
pub trait Loader { fn get(&self); }
pub enum Color { Red, Green(u8) }
pub const LIMIT: usize = 10;
"""
JAVA = """/** Keeps. */
public class Store<T> extends Base {
  private int size = 0;
  public T load(String key) throws IOException { int inner = 1; return null; }
  enum Color { RED }
}
record Point(int x, int y) {}
"""
LUA = """local M = {}
-- Loads.
function M.load(key) local inner = 1 return inner end
function M:get(a, b) end
M.open = function(path) end
"""
C = """/* Keeps. */
struct store { int size; char *name; };
typedef struct { int a; } thing_t;
// Loads.
int store_load(struct store *s, const char *key);
static char *open_it(const char *p) { int inner = 1; return 0; }
#define LIMIT 10
"""
CPP = """namespace n {
/// Keeps.
template <typename T> class Store : public Base {
public:
  Store(int n);
  T& get() { return x; }
};
template <typename T> T Store<T>::load(const std::string& key) const { return x; }
}
"""


@pytest.mark.parametrize(
    "language, text, expected",
    [
        ("python", PYTHON, [
            "0   constant LIMIT: LIMIT = 1",
            "1   class Store: class Store(Base): | Keeps values.",
            "5 Store field size: size: int = 0",
            "6 Store method __init__: def __init__(self, a):",
            "7 Store field cache: self.cache = {}",
            "10 Store method load: @property / def load(self, key: str) -> int:",
            "15   function open_store: async def open_store(path: Path) -> Store:",
        ]),
        ("typescript", TYPESCRIPT, [
            "1   class Store: class Store<T> extends Base | Keeps.",
            "2 Store field size: private size: number = 0",
            "4 Store method load: async load(key: string): Promise<T> | Loads it.",
            "6   class Shape: interface Shape",
            "6 Shape field x: x: number",
            "6 Shape method area: area(a: string): void",
            "7   class Color: enum Color",
            "7 Color field Red: Red",
            "7 Color field Green: Green = 3",
            "8   type Name: type Name = string | number",
            "10   constant open: const open = async (path: string): Promise<Store> | Opens one.",
            "11   function free: function free(a: number)",
        ]),
        ("javascript", JAVASCRIPT, [
            "0   function open: exports.open = function (a, b)",
            "1   constant LIMIT: const LIMIT = 10",
            "2   class Store: class Store extends Base",
            "2 Store field size: static size = 1",
            "2 Store method load: load(key)",
        ]),
        ("go", GO, [
            "2   class Store: type Store struct | Store keeps.",
            "3 Store field Size: Size int",
            "4 Store field mu: mu sync.Mutex",
            "7 Store method Load: func (s *Store) Load(key string) (int, error) | Load loads.",
            "8   class Loader: type Loader interface",
            "8 Loader method Get: Get(key string) int",
            "9   constant Limit: const Limit = 10",
        ]),
        ("rust", RUST, [
            "2   class Store: pub struct Store<T> | Keeps.",
            "2 Store field size: pub size: usize",
            "3 Store method load: fn load(&self) -> u8",
            "4   class Loader: pub trait Loader",
            "4 Loader method get: fn get(&self)",
            "5   class Color: pub enum Color",
            "5 Color field Red: Red",
            "5 Color field Green: Green(u8)",
            "6   constant LIMIT: pub const LIMIT: usize = 10",
        ]),
        ("java", JAVA, [
            "1   class Store: public class Store<T> extends Base | Keeps.",
            "2 Store field size: private int size = 0",
            "3 Store method load: public T load(String key) throws IOException",
            "4 Store class Color: enum Color",
            "4 Color field RED: RED",
            "6   class Point: record Point(int x, int y)",
        ]),
        ("lua", LUA, [
            "0   constant M: local M = {}",
            "2 M method load: function M.load(key) | Loads.",
            "3 M method get: function M:get(a, b)",
            "4 M method open: M.open = function(path)",
        ]),
        ("c", C, [
            "1   class store: struct store | Keeps.",
            "1 store field size: int size",
            "1 store field name: char *name",
            "2   type thing_t: typedef struct thing_t",
            "2 thing_t field a: int a",
            "4   function store_load: int store_load(struct store *s, const char *key) | Loads.",
            "5   function open_it: static char *open_it(const char *p)",
            "6   macro LIMIT: #define LIMIT 10",
        ]),
        ("cpp", CPP, [
            "2   class Store: class Store : public Base | Keeps.",
            "4 Store method Store: Store(int n)",
            "5 Store method get: T& get()",
            "7 Store method load: T Store<T>::load(const std::string& key) const",
        ]),
    ],
)  # fmt: skip
def test_definitions_are_heads_without_bodies(
    language: str, text: str, expected: list[str]
) -> None:
    found = [
        f"{d.line} {d.container or ' '} {d.kind.value} {d.name}: "
        + d.signature.replace("\n", " / ")
        + (f" | {d.doc}" if d.doc else "")
        for d in definitions(text.encode(), language)
    ]
    assert found == expected


@pytest.mark.parametrize("language", TAGS)
def test_the_installed_grammars_know_every_pattern(language: str) -> None:
    assert grammars.known(language, TAGS[language]) == TAGS[language]


def test_a_grammar_without_some_node_loses_that_pattern_only() -> None:
    patterns = ("(no_such_node) @x", "(function_definition name: (identifier) @name) @definition.f")
    assert grammars.known("python", patterns) == patterns[1:]


@pytest.mark.parametrize("language", TAGS)
def test_broken_text_gives_what_can_be_told_and_never_raises(language: str) -> None:
    for text in (b"", b"class Store(", b"\xff\xfe{{{((", b"}" * 5_000, "é" .encode() * 10):
        definitions(text, language)


@pytest.mark.parametrize(
    "language, text, expected",
    [
        ("python", "from a.b import (\n c as d,  # x\n e\n)\nfrom . import f\nimport g.h as i\n", [
            Import("a/b", "c", "d"), Import("a/b/c", "", "d"), Import("a/b", "e", "e"),
            Import("a/b/e", "", "e"), Import("./f", "", "f"), Import("g/h", "", "i"),
        ]),
        ("typescript", "import A, { b as c, type D } from './x';\nconst e = require('../y')\n", [
            Import("./x", "b", "c"), Import("./x", "D", "D"), Import("./x", "", "A"),
            Import("./x", "A", "A"), Import("../y", "", "e"), Import("../y", "e", "e"),
        ]),
        ("go", 'import (\n\t"fmt"\n\ts "m.org/p/store"\n)\n', [
            Import("fmt", "", "fmt"), Import("m.org/p/store", "", "s"),
        ]),
        ("rust", "use crate::a::{b, c::D as E};\n", [
            Import("a", "b", "b"), Import("a/b", "", "b"),
            Import("a/c", "D", "E"), Import("a/c/D", "", "E"),
        ]),
        ("java", "import a.b.Store;\n", [Import("a/b/Store", "Store", "Store")]),
        ("lua", 'local s = require("a.b")\n', [Import("a/b", "", "s")]),
        ("cpp", '#include "a/b.hpp"\n#include <vector>\n', [Import("a/b.hpp", "", "")]),
    ],
)  # fmt: skip
def test_imports(language: str, text: str, expected: list[Import]) -> None:
    assert imports_of(text, language) == expected


@pytest.mark.parametrize("opening", ["[", "(", "f("])
def test_an_error_as_long_as_its_file_takes_no_longer_than_another(opening: str) -> None:
    """A pattern of neighbours takes the square of how many there are."""
    assert definitions(f"x = {opening * 100_000}\n".encode(), "javascript") == []


SHAPES = (
    "\n", "\r\n", "import\t\t\t\t", "import a ", "from a import (\n", "use a::{", "pub(",
    "const a,", "local a = require\n\n\n\n", "# include ", 'import "a', "struct A : public B",
    "class A extends B ", "impl<A", "class A(",
)  # fmt: skip


@pytest.mark.parametrize("language", ["python", "javascript", "go", "rust", "java", "lua", "cpp"])
def test_a_text_of_any_shape_is_read_at_once(language: str) -> None:
    """None of these brings a pattern to try everything with everything."""
    for shape in SHAPES:
        text = shape * (100_000 // len(shape))
        assert isinstance(imports_of(text + "\n" + "}" * 5000 + ";", language), list)
        assert isinstance(types_of("self", text, language), list)
        assert isinstance(receivers(text, language), list)


@pytest.mark.parametrize(
    "module, path, language, end",
    [
        ("../b", "pkg/sub/a.py", "python", "pkg/b.py"),
        ("a/b", "x.py", "python", "a/b/__init__.py"),
        ("./b", "src/a.ts", "typescript", "src/b.tsx"),
        ("../lib", "src/a/b.js", "javascript", "src/lib/index.js"),
        ("b.h", "src/a.c", "c", "src/b.h"),
    ],
)
def test_where_a_module_may_lie(module: str, path: str, language: str, end: str) -> None:
    assert end in candidates(module, path, language)
