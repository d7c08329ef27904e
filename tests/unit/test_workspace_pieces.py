"""What of an index is shown for a place in a text: what it needs, each once, within a budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockdiff.types import Hole, Snippet
from blockdiff.workspace.index import Index
from blockdiff.workspace.pieces import ContextPieces, context_pieces
from blockdiff.workspace.place import CHARACTERS_PER_TOKEN
from blockdiff.workspace.receivers import completed, types_of

FILES = {
    "py/store.py": '''class Base:
    def close(self): pass
class Store(Base):
    """Keeps values."""
    def load(self, key: str) -> int: pass
    def save(self, key: str, value: int) -> None: pass
    def _private(self): pass
def open_store(path: str) -> Store: pass
def unrelated(): pass
''',
    "py/pkg/__init__.py": "from .inner import passed_on\n",
    "py/pkg/inner.py": "def passed_on(a: int) -> int: pass\n",
    "py/other.py": "def path(): pass\nclass Elsewhere:\n    def load(self): pass\n",
    "ts/store.ts": """export class Store {
  load(key: string): number { return 1 }
}
export function openStore(path: string): Store { return new Store() }
""",
    "go/store.go": """package a
type Store struct { size int }
// Load loads.
func (s *Store) Load(key string) int { return 1 }
func Open(path string) *Store { return nil }
""",
    "rust/src/store.rs": """pub struct Store { pub size: usize }
impl Store { pub fn load(&self, key: &str) -> u32 { 1 } pub fn new() -> Store { } }
""",
    "java/a/Store.java": "public class Store { public int load(String key) { return 1; } }\n",
    "lua/store.lua": "local M = {}\nfunction M.load(key) end\nreturn M\n",
    "c/store.h": "struct store { int size; };\nint store_load(struct store *s, const char *key);\n",
    "cpp/store.hpp": "class Store { public: int load(const char *key); };\n",
}
HOLE = "<HOLE>"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("work")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    made = Index(root, file=root.parent / f"{root.name}.sqlite")
    made.refresh()
    return made


def pieces(
    index: Index | None, text: str, path: str = "py/main.py", budget: int = 256, **rest: object
) -> ContextPieces:
    at = text.index(HOLE)
    text = text.replace(HOLE, "")
    return context_pieces(index, text, Hole(at, at), path, "", budget, **rest)  # type: ignore[arg-type]


def shown(found: ContextPieces) -> str:
    return "".join(f"{snippet.path}\n{snippet.text}" for snippet in found.snippets)


@pytest.mark.parametrize(
    "path, text, heads",
    [
        ("py/main.py", "from store import open_store\nstore = open_store('x')\nstore.<HOLE>", [
            "class Store(Base):", "    def load(self, key: str) -> int: ...",
            "def open_store(path: str) -> Store: ...",
        ]),
        ("py/main.py", "from store import Store\ndef f(s: Store) -> None:\n    s.lo<HOLE>\n", [
            "    def load(self, key: str) -> int: ...",
        ]),
        ("py/main.py", "from store import Store\nclass Mine(Store):\n    def f(self):\n"
         "        return self.<HOLE>\n", ["    def load(self, key: str) -> int: ..."]),
        ("py/main.py", "import store\nstore.<HOLE>", ["def open_store(path: str) -> Store: ..."]),
        ("py/main.py", "from pkg import passed_on\npassed_on(<HOLE>", [
            "def passed_on(a: int) -> int: ...",
        ]),
        ("py/main.py", "import store\nx = store.open_store(<HOLE>)", [
            "def open_store(path: str) -> Store: ...",
        ]),
        ("py/main.py", "from store import <HOLE>", ["def open_store(path: str) -> Store: ..."]),
        ("ts/main.ts", "import { openStore } from './store';\nconst s = openStore('');\ns.<HOLE>", [
            "class Store {", "    load(key: string): number",
        ]),
        ("go/main.go", "package a\nfunc f(s *Store) int {\n\treturn s.<HOLE>\n}\n", [
            "type Store struct {", "func (s *Store) Load(key string) int",
        ]),
        ("go/main.go", "package a\nfunc f() {\n\ts := Open(<HOLE>)\n}\n", [
            "func Open(path string) *Store",
        ]),
        ("rust/src/main.rs", "use crate::store::Store;\nfn f(s: &Store) {\n    s.<HOLE>\n}\n", [
            "pub struct Store {", "    pub fn load(&self, key: &str) -> u32",
        ]),
        ("java/a/Main.java", "class Main { int f(Store store) { return store.<HOLE>; } }", [
            "public class Store {", "    public int load(String key)",
        ]),
        ("lua/main.lua", 'local store = require("store")\nstore.<HOLE>', ["function M.load(key)"]),
        ("c/main.c", '#include "store.h"\nint f(struct store *s) { return store_load(<HOLE>); }', [
            "int store_load(struct store *s, const char *key)",
        ]),
        ("c/main.c", '#include "store.h"\nint f(struct store *s) { return s-><HOLE>; }', [
            "    int size",
        ]),
        ("cpp/main.cpp", '#include "store.hpp"\nint f(Store &s) { return s.<HOLE>; }', [
            "class Store {", "    int load(const char *key)",
        ]),
    ],
)  # fmt: skip
def test_members_of_what_is_completed_and_names_near_the_hole_are_shown(
    index: Index, path: str, text: str, heads: list[str]
) -> None:
    found = pieces(index, text, path)
    lines = shown(found).splitlines()
    assert set(heads) <= set(lines), lines
    assert found.needed and found.needed <= found.shown
    once = [line for line in lines if line != "}"]
    assert len(once) == len(set(once))
    assert not {"_private", "Elsewhere"} & {key[2] for key in found.shown}


def test_names_that_nothing_imports_and_variables_that_are_called_like_something_say_nothing(
    index: Index,
) -> None:
    found = pieces(index, "path = 1\nelsewhere = 2\nprint(path, elsewhere.x, <HOLE>)\n")
    assert found == ContextPieces()


def test_a_file_shows_of_itself_only_what_the_window_does_not(index: Index) -> None:
    text = FILES["py/store.py"] + "# x\n" * 2_000 + "s = open_store(<HOLE>)\n"
    assert "def open_store(path: str)" in shown(pieces(index, text, "py/store.py"))
    near = FILES["py/store.py"] + "s = open_store(<HOLE>)\n"
    assert "open_store" not in shown(pieces(index, near, "py/store.py"))


@pytest.mark.parametrize("budget", [0, 8, 16, 24, 32, 48, 64, 128])
def test_the_budget_holds_and_what_matters_most_comes_first(index: Index, budget: int) -> None:
    text = "from store import open_store, unrelated\nstore = open_store('x')\nstore.lo<HOLE>"
    edit, ring = Snippet("e.diff", "-a\n+b\n"), Snippet("r.py", "ring = 1\n")
    found = pieces(index, text, budget=budget, edits=[edit], ring=[ring])
    size = sum(len(s.path) + len(s.text) for s in found.snippets if s != ring)
    assert found.tokens <= budget and size <= budget * CHARACTERS_PER_TOKEN
    assert found.snippets[-1] == ring  # as before: what prefix and suffix leave is for it
    if budget >= 32:
        assert "class Store(Base):" in shown(found) and found.snippets[0].path == "py/store.py"
    if budget >= 64:
        assert "def load" in shown(found)
    if budget >= 128:
        assert edit in found.snippets


def test_names_of_one_weight_come_in_the_order_of_their_imports(tmp_path: Path) -> None:
    """In every process: contexts that were encoded are found again by what they begin with."""
    names = [f"part{number * 7 % 12}" for number in range(12)]
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"def {name}(): pass\n")
    index = Index(tmp_path, file=tmp_path.parent / "order.sqlite")
    index.refresh()
    imports = "".join(f"from {name} import {name}\n" for name in names)
    found = pieces(index, f"{imports}{50 * chr(10)}<HOLE>", "main.py")
    index.close()
    assert [snippet.path for snippet in found.snippets] == [f"{name}.py" for name in names]


def test_an_edit_that_the_ring_shows_is_not_shown_again(index: Index) -> None:
    ring = Snippet("a.py", "x = 1\ny = 2\n")
    added, changed = Snippet("a.py.diff", " x = 1\n+y = 2\n"), Snippet("a.py.diff", "-y\n+y = 2\n")
    assert pieces(None, HOLE, edits=[added, changed], ring=[ring]).snippets == (changed, ring)


def test_a_file_that_a_list_names_meanwhile_is_not_shown(index: Index) -> None:
    text = "from store import open_store\nopen_store(<HOLE>)"
    assert pieces(index, text).snippets
    listed = index.root / ".blockdiffignore"
    listed.write_text("store.py\n")
    try:
        assert not pieces(index, text).snippets
    finally:
        listed.unlink()


def test_nothing_breaks_on_text_that_is_no_code(index: Index) -> None:
    for text in ("", "\0\ud800", "((((((" * 500, "a." * 3_000, "x" * 50_000):
        for path in FILES:
            pieces(index, text + HOLE, path)


@pytest.mark.parametrize(
    "language, line, receiver",
    [
        ("python", "x = a.b.lo", ("a.b", "lo")),
        ("python", "x = f().", ("f()", "")),
        ("python", "x: ", None),
        ("python", 'print("a.', None),
        ("python", "1.", None),
        ("lua", "a:lo", ("a", "lo")),
        ("cpp", "a->b::c", ("a->b", "c")),
        ("go", "a->b", None),
    ],
)
def test_what_an_attribute_is_completed_of(
    language: str, line: str, receiver: tuple[str, str] | None
) -> None:
    assert completed(line, language) == receiver


@pytest.mark.parametrize(
    "language, text, name, first",
    [
        ("python", "def f(a: Optional[Store] = None): ", "a", "Store"),
        ("python", "a = pkg.Store(x)\n", "a", "Store"),
        ("python", "with open_it(x) as a:\n", "a", "open_it"),
        ("python", "a = Old()\na = New()\n", "a", "New"),
        ("python", "self.a: Store = x\n", "self.a", "Store"),
        ("typescript", "const a = await new Store(x);", "a", "Store"),
        ("go", "a := store.NewStore(x)\n", "a", "NewStore"),
        ("go", "func f(a *pkg.Store) ", "a", "Store"),
        ("rust", "let a = Store::new(x);", "a", "Store"),
        ("java", "final Store<String> a = x;", "a", "Store"),
        ("cpp", "const n::Store &a;", "a", "Store"),
    ],
)
def test_guesses_at_the_type_of_a_name(language: str, text: str, name: str, first: str) -> None:
    assert first in types_of(name, text, language)[:2]
