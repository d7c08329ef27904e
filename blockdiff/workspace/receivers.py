"""Which type a name in a text is likely of, by the text before the hole: no type checker runs.

It need not be right every time: what is guessed is looked up, and only what the workspace defines
is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_MARKS = {"c": r"\.|->", "cpp": r"\.|->|::", "rust": r"\.|::", "lua": r"\.|:"}
_WORD = r"[^\W\d]\w{0,80}"
_PYTHON_CLASS = re.compile(r"^([ \t]*)class[ \t]+(\w+)[ \t]*(?:\(([^)]*)\))?[ \t]*:", re.MULTILINE)
_CLASS = re.compile(
    r"\b(?:class|struct|impl(?:<[^>]{0,200}>)?|interface|trait)\s{1,9}(\w+)(?:<[^>]{0,200}>)?"
    r"((?:\s{1,9}(?:extends|implements|for)\s|\s{0,9}:)[\w\s<>.,:]{1,300}|\s{0,9})\{"
)
_GO_RECEIVER = re.compile(r"^func\s*\(\s*(\w+)\s+\*?(\w+)", re.MULTILINE)
_ASSIGNED = re.compile(r"(?<![\w.])([^\W\d]\w{1,80})\s*(?::\s*[^=\n]{1,80})?:?=(?!=)")
# What binds a name: these stand behind it. They do not have the name in them, as a pattern that is
# compiled for each name costs far more than it finds.
_BEHIND = (
    (0, re.compile(r"\s*:\s*([^=,;(){}\n]{1,200})")),  # annotated
    (
        1,  # made
        re.compile(
            r"\s*:?=\s*(?:await\s+)?(?:new\s+)?&?([\w.:]{1,200})\s*(?:<[^>\n]{0,200}>)?\s*[({]"
        ),
    ),
    (4, re.compile(r"\s+\[?\]?\*?([\w.]+)\s*(?:[,)=\n]|$)")),  # Go: `store *Store`
)
_MAY_BIND = re.compile(r"[\s:=;,)\[{(]|$")  # what any of these begins with
_DECLARED = re.compile(r"\s*(?:[=;,)\[{(]|$)")
_TYPE = re.compile(r"\b([\w:]{1,80})(?:<[^<>;\n]{0,200}>)?(?:\s+|\s*[*&]+\s*)\Z")
_LONGEST_TYPE = 80 + 202  # characters
_OPENED = r"\bwith\s+([\w.]{1,200})\([^\n]{0,300}\)\s+as\s+"
_IMPORT_LINES = re.compile(r"^[ \t]*(?:#[ \t]*include|import|from|use|package)\b.*$", re.MULTILINE)
_NAME = re.compile(r"[^\W\d]\w*")
_SEARCHED = 20_000  # characters before the hole
_LINE = 300  # characters of a line that are looked at
_SELF = frozenset({"self", "this", "cls", "super", "Self"})
_NO_TYPES = frozenset(
    "return new else const let var def await yield in is not and or if for while import from as"
    " public private protected static final mut ref func fn function local auto None True False"
    " Optional Union List Dict Set Tuple Sequence Iterable Iterator Callable Any str int float bool"
    " bytes string number boolean void String Vec Option Result Box Arc Rc Self self this".split()
)


def completed(before: str, language: str) -> tuple[str, str] | None:
    """What an attribute is being completed of at the end of a text, and what there is of it."""
    line = before[max(before.rfind("\n") + 1, len(before) - _LINE) :]
    mark = _MARKS.get(language, r"\.")
    one = rf"{_WORD}(?:\(\))?"
    found = re.search(rf"(?<!\w)((?:{one}(?:{mark})){{0,8}}{one})(?:{mark})(\w*)$", line)
    if found is None or line[: found.start()].count('"') % 2:
        return None
    return found[1], found[2]


def receivers(text: str, language: str) -> list[str]:
    """The names in a text that something is taken out of, in its order."""
    mark = _MARKS.get(language, r"\.")
    text = _IMPORT_LINES.sub("", text)
    found = re.finditer(rf"(?<![\w.])((?:{_WORD}(?:{mark})){{0,8}}{_WORD})(?:{mark}){_WORD}", text)
    return list(dict.fromkeys(one[1] for one in found))


def bound(text: str) -> list[str]:
    """The names that a text assigns to, the last first: one of them is used next, as a rule."""
    found = _ASSIGNED.findall(text)
    return list(dict.fromkeys(reversed(found)))


def types_of(receiver: str, before: str, language: str) -> list[str]:
    """Names that may be the type of a name, or give one: the likeliest first."""
    found = list(dict.fromkeys(_types(receiver.replace("()", ""), before, language)))
    return [name for name in found if name not in _NO_TYPES][:6]


def _types(receiver: str, before: str, language: str) -> Iterator[str]:
    parts = re.split(r"\.|->|::?", receiver)
    last = parts[-1]
    text = before[-_SEARCHED:]
    if len(parts) == 1 and last in _SELF:
        yield from enclosing(text, language)
        return
    if len(parts) == 1 and language == "go":
        yield from (type_ for name, type_ in reversed(_GO_RECEIVER.findall(text)) if name == last)
    lines = "\n".join(line for line in text.split("\n") if last in line)
    yield from reversed(list(_bound(".".join(parts), lines)))
    if len(parts) > 1:
        yield from reversed(list(_bound(last, lines)))
    if last[:1].isupper():
        yield last
    else:
        yield "".join(part[:1].upper() + part[1:] for part in last.strip("_").split("_"))
        yield last


def _bound(name: str, text: str) -> Iterator[str]:
    """Types in the places where a text binds a name, in its order."""
    places: list[tuple[int, int, str]] = []  # and the rank of a pattern
    ends = [0] * len(_BEHIND)  # of the last match of each: the next one begins there or later
    declared = 0  # likewise
    at, is_opened = text.find(name), False
    while at >= 0:
        here, at = at, text.find(name, at + 1)
        before, behind = text[max(0, here - 9) : here], here + len(name)
        is_opened = is_opened or before.split()[-1:] == ["as"]
        if not _MAY_BIND.match(text, behind):
            continue
        if not (before[-1:].isalnum() or before.endswith(("_", "."))):
            for number, (rank, pattern) in enumerate(_BEHIND):
                if here >= ends[number] and (found := pattern.match(text, behind)):
                    ends[number] = found.end()
                    places.append((here, rank, found[1]))
        if (rest := _DECLARED.match(text, behind)) and (found := _type(text, declared, here)):
            declared = rest.end()
            places.append((found.start(), 3, found[1]))
    if is_opened:
        opened = re.finditer(rf"{_OPENED}{re.escape(name)}\b", text)
        places += [(found.start(), 2, found[1]) for found in opened]
    for _, _, type_ in sorted(places):
        yield from _NAME.findall(type_)


def _type(text: str, start: int, end: int) -> re.Match[str] | None:
    """The type that ends, with blanks or marks of a pointer, where a name begins."""
    last = end
    while last > start and (text[last - 1] in "*&" or text[last - 1].isspace()):
        last -= 1
    return _TYPE.search(text, max(start, last - _LONGEST_TYPE), end) if last < end else None


def enclosing(text: str, language: str) -> list[str]:
    """The class that the end of a text is in, and the classes it stands on."""
    if language == "python":
        line = text[text.rfind("\n") + 1 :]
        indent = len(line) - len(line.lstrip()) if line.strip() else len(line)
        for found in reversed(list(_PYTHON_CLASS.finditer(text))):
            if len(found[1]) < max(indent, 1):
                return [found[2], *_NAME.findall(re.sub(r"\[.*|\w+\s*=.*", "", found[3] or ""))]
        return []
    if language == "go":
        return [found[1] for found in _GO_RECEIVER.findall(text)][-1:]
    found_all = list(_CLASS.finditer(text))
    if not found_all:
        return []
    last = found_all[-1]
    words = ("extends", "implements", "for", "public")
    above = [name for name in _NAME.findall(last[2]) if name not in words]
    return [last[1], *above]
