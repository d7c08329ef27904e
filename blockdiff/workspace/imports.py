"""What a text imports, by its text alone: it need not parse while somebody types in it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

_FAMILIES = {"typescript": "javascript", "tsx": "javascript", "cpp": "c"}

_ENDINGS = {
    "python": (".py", ".pyi", "/__init__.py", "/__init__.pyi"),
    "javascript": tuple(
        f"{stem}.{end}"
        for stem in ("", "/index")
        for end in ("ts", "tsx", "d.ts", "js", "jsx", "mjs", "cjs", "mts", "cts")
    ),
    "rust": (".rs", "/mod.rs", "/lib.rs"),
    "java": (".java",),
    "lua": (".lua", "/init.lua"),
    "c": ("",),
}
_SEARCHED = 200_000  # characters from the start of a text
_DEEPEST = 16  # braces of Rust within one another

# Each looks a bounded way ahead: a text of blank lines or open brackets costs no more than others.
_PYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]{0,4000}\)|(?:[^\n\\]|\\\n)+)"
    r"|import[ \t]+((?:[^\n\\;]|\\\n)+))",
    re.MULTILINE,
)
_SCRIPT = re.compile(
    r"""(?:\bimport\s(?:type\s)?([^;'"()]{0,1000}?)\bfrom\s{0,9}"""
    r"""|\b(?:const|let|var)\s([\w{},\s:$]{1,500}?)=\s{0,9}"""
    r"""(?:await\s{1,9})?(?:require|import)\s{0,9}\(\s{0,9})['"]([^'"\n]+)['"]"""
)
_GO = re.compile(
    r'^[ \t]*(?:import[ \t]+)?([\w.]+[ \t]+)?"([\w./-]+)"[ \t]*\r?$', re.MULTILINE
)
_RUST = re.compile(
    r"^[ \t]*(?:pub(?:\([^)]{0,100}\))?\s{1,9})?use\s([^;]{1,4000});", re.MULTILINE
)
_JAVA = re.compile(
    r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+?)(?:\.\*)?\s{0,9};", re.MULTILINE
)
_LUA = re.compile(
    r"""\blocal\s{1,9}(\w+)\s{0,9}=\s{0,9}require\s{0,9}\(?\s{0,9}['"]([\w./-]+)['"]"""
)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)
_COMMENT = re.compile(r"#[^\n]*")


@dataclass(frozen=True, slots=True)
class Import:
    """Attributes:
    module: with slashes; one that starts with `./` or `../` is relative to the importing file.
    name: what is taken out of it; empty: all of it.
    alias: what the text calls it.
    """

    module: str
    name: str
    alias: str


def family_of(language: str) -> str:
    """Languages of one family see one another's definitions."""
    return _FAMILIES.get(language, language)


def imports_of(text: str, language: str) -> list[Import]:
    """Those of a text, in its order."""
    reader = _READERS.get(family_of(language))
    return list(dict.fromkeys(reader(text[:_SEARCHED]))) if reader else []


def candidates(module: str, path: str, language: str) -> Iterator[str]:
    """Ends of paths that a module may lie at, imported by the file `path`."""
    family = family_of(language)
    is_relative = module.startswith(("./", "../"))
    if is_relative or family == "c":
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(path), module))
        module = module if joined.startswith("..") else joined
    for ending in _ENDINGS.get(family, ()):
        yield module + ending


def python_module(dotted: str) -> str:
    """A name behind `from`, as `Import.module` has it."""
    name = dotted.lstrip(".")
    dots = len(dotted) - len(name)
    return ("./" if dots == 1 else "../" * (dots - 1)) + name.replace(".", "/")


def _python(text: str) -> Iterator[Import]:
    for found in _PYTHON.finditer(text):
        if found[1]:
            module = python_module(found[1])
            for name, alias in _aliased(_COMMENT.sub("", found[2]).strip("() \n"), " as "):
                if module.endswith("/"):  # `from . import a`: a module, as a rule
                    yield Import(module + name, "", alias)
                else:
                    yield Import(module, name, alias)
                    yield Import(f"{module}/{name}", "", alias)
        else:
            for name, alias in _aliased(_COMMENT.sub("", found[3]), " as "):
                bound = alias if alias != name else name.partition(".")[0]
                yield Import(name.replace(".", "/"), "", bound if alias != name else name)


def _script(text: str) -> Iterator[Import]:
    for found in _SCRIPT.finditer(text):
        names, module = found[1] or found[2] or "", found[3]
        default, brace, inside = names.partition("{")
        inside = re.sub(r"\btype\s+", "", inside.partition("}")[0].replace(":", " as "))
        for name, alias in _aliased(inside, " as "):
            yield Import(module, name, alias)
        whole = default.strip(" ,\n").removeprefix("* as ").strip()
        if whole.isidentifier():
            yield Import(module, "", whole)
            if not default.strip().startswith("*"):
                yield Import(module, whole, whole)


def _go(text: str) -> Iterator[Import]:
    for found in _GO.finditer(text):
        last = found[2].rpartition("/")[2]
        yield Import(found[2], "", (found[1] or last).strip())


def _rust(text: str) -> Iterator[Import]:
    for found in _RUST.finditer(text):
        yield from _rust_tree(" ".join(found[1].split()), "")


def _rust_tree(text: str, above: str, depth: int = 0) -> Iterator[Import]:
    head, brace, inside = text.partition("{")
    if brace:
        for part in _split(inside.rpartition("}")[0]) if depth < _DEEPEST else ():
            yield from _rust_tree(part, above + head, depth + 1)
        return
    path, _, alias = (above + text).partition(" as ")
    parts = [part for part in path.strip().split("::") if part not in ("crate", "self", "super")]
    if not parts:
        return
    name = alias.strip() or parts[-1]
    yield Import("/".join(parts[:-1]), parts[-1], name)
    yield Import("/".join(parts), "", name)


def _java(text: str) -> Iterator[Import]:
    for found in _JAVA.finditer(text):
        name = found[1].rpartition(".")[2]
        yield Import(found[1].replace(".", "/"), name, name)


def _lua(text: str) -> Iterator[Import]:
    for found in _LUA.finditer(text):
        yield Import(found[2].replace(".", "/"), "", found[1])


def _c(text: str) -> Iterator[Import]:
    for found in _INCLUDE.finditer(text):
        yield Import(found[1], "", "")


_READERS = {
    "python": _python,
    "javascript": _script,
    "go": _go,
    "rust": _rust,
    "java": _java,
    "lua": _lua,
    "c": _c,
}


def _aliased(names: str, mark: str) -> Iterator[tuple[str, str]]:
    for part in names.replace("\\\n", " ").split(","):
        name, _, alias = " ".join(part.split()).partition(mark)
        if name.strip():
            yield name.strip(), (alias or name).strip()


def _split(text: str) -> list[str]:
    """At the commas outside of braces."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
