"""A rewrite with a known result, and whether a file is that result."""

from __future__ import annotations

import ast
from dataclasses import dataclass

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
CONVERSIONS = ("f-string", "comprehension", "early return")


@dataclass(frozen=True, slots=True)
class RewriteTask:
    """A rewrite with a known result.

    Attributes:
        form: of edit, one of `FORMS` or of the exercises.
        document: the file as it is shown, `start` and `end` the span in it (code points).
        expected: the file as it should be.
        function: qualified name of the function that the span is.
        tests: program that has to run behind the file; empty: the trees are compared.
    """

    id: str
    form: str
    path: str
    document: str
    start: int
    end: int
    instruction: str
    expected: str
    function: str
    tests: str = ""

    @property
    def kind(self) -> str:
        """Forms that turn code into other code of the same meaning are one kind."""
        return "convert" if self.form in CONVERSIONS else self.form

    @property
    def text(self) -> str:
        return self.document[self.start : self.end]


def equivalent(task: RewriteTask, document: str) -> bool:
    """Whether a rewritten file is what the edit asked for.

    For docstrings and type hints, which are not told word by word, everything else has to be as
    it was, and what was asked for has to be there.
    """
    try:
        found, wanted = ast.parse(document), ast.parse(task.expected)
    except (SyntaxError, ValueError):
        return False
    if task.form == "docstring":
        node = _find(found, task.function)
        if node is None or not (ast.get_docstring(node) or "").strip():
            return False
        return _same(_without_docstring(found, task), _without_docstring(wanted, task))
    if task.form == "type hints":
        one, other = _find(found, task.function), _find(wanted, task.function)
        if one is None or other is None or not _hints(one) >= _hints(other):
            return False
        return _same(_without_hints(found, task), _without_hints(wanted, task))
    return _same(found, wanted)


def _same(one: ast.Module, other: ast.Module) -> bool:
    return ast.dump(one) == ast.dump(other)


def _find(tree: ast.Module, name: str) -> FunctionNode | None:
    body: list[ast.stmt] = tree.body
    found: ast.stmt | None = None
    for part in name.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = next((n for n in body if isinstance(n, kinds) and n.name == part), None)
        if found is None:
            return None
        body = found.body
    return found if isinstance(found, FunctionNode) else None


def _without_docstring(tree: ast.Module, task: RewriteTask) -> ast.Module:
    node = _find(tree, task.function)
    if node is not None and ast.get_docstring(node, clean=False) is not None:
        del node.body[0]
    return tree


def _hints(node: FunctionNode) -> set[str]:
    hinted = {argument.arg for argument in arguments(node) if argument.annotation is not None}
    return hinted | ({"return"} if node.returns is not None else set())


def _without_hints(tree: ast.Module, task: RewriteTask) -> ast.Module:
    node = _find(tree, task.function)
    if node is not None:
        node.returns = None
        for argument in arguments(node):
            argument.annotation = None
    return tree


def arguments(node: FunctionNode) -> list[ast.arg]:
    """All parameters of a function, as they stand."""
    every = node.args
    extra = [argument for argument in (every.vararg, every.kwarg) if argument is not None]
    arguments = [*every.posonlyargs, *every.args, *every.kwonlyargs, *extra]
    return sorted(arguments, key=lambda argument: (argument.lineno, argument.col_offset))
