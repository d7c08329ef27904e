"""Tasks of rewriting made by reversing mechanical edits on real Python code.

What the code was before is what a rewrite by instruction should give back. Each form is a function
from a file to its tasks: the file as it is shown, the span to rewrite, the instruction, and the
file as it should be. A file's code is compared as a syntax tree, so layout does not count.
"""

from __future__ import annotations

import ast
import random
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.infilling import parses
from blockdiff.eval.rewrite_task import FunctionNode, RewriteTask, arguments

_LINES = (3, 24)  # of a function that is rewritten
_NAMES = ("entries", "outcome", "position", "amount", "label", "chosen")


@dataclass(frozen=True, slots=True)
class PlacedFunction:
    """A function of a parsed file, and where it stands: whole lines, decorators not included."""

    file: HeldOutFile
    node: FunctionNode
    name: str
    starts: tuple[int, ...]

    def offset(self, line: int, column: int) -> int:
        """Of the parser's position; a file is ASCII, so bytes are characters."""
        return self.starts[line - 1] + column

    def span(self, node: ast.stmt | ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        first = self.offset(node.lineno, node.col_offset)
        return first, self.offset(node.end_lineno, node.end_col_offset)

    def source(self, node: ast.stmt | ast.expr) -> str:
        return self.file.text[slice(*self.span(node))]

    def edited(self, form: str, instruction: str, *changes: tuple[int, int, str]) -> RewriteTask:
        """The task whose shown file has `changes` (start, end, new text), in order, made to it."""
        text, moved = self.file.text, 0
        for start, end, new in changes:
            text = text[: start + moved] + new + text[end + moved :]
            moved += len(new) - (end - start)
        start, end = self.offset(self.node.lineno, 0), self.span(self.node)[1]
        return RewriteTask(
            id=f"{form}/{self.file.id}:{self.node.lineno}",
            form=form,
            path=self.file.path,
            document=text,
            start=start,
            end=end + moved,
            instruction=instruction,
            expected=self.file.text,
            function=self.name,
        )


def functions(file: HeldOutFile) -> Iterator[PlacedFunction]:
    """Functions of a length that is worth a rewrite, none nested in another."""
    text = file.text
    if not text.isascii() or "\t" in text or "\r" in text or "\f" in text:
        return
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)

    def inside(body: list[ast.stmt], prefix: str) -> Iterator[PlacedFunction]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from inside(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, FunctionNode) and node.end_lineno is not None:
                if _LINES[0] <= node.end_lineno - node.lineno + 1 <= _LINES[1]:
                    yield PlacedFunction(file, node, prefix + node.name, tuple(starts))

    try:
        yield from inside(ast.parse(text).body, "")
    except (SyntaxError, ValueError):
        return


# --- forms --------------------------------------------------------------------------------------


def type_hints(function: PlacedFunction) -> Iterator[RewriteTask]:
    """Annotations are taken away."""
    node = function.node
    changes = []
    for argument in arguments(node):
        if argument.annotation is not None:
            start = function.offset(argument.lineno, argument.col_offset) + len(argument.arg)
            changes.append((start, function.span(argument.annotation)[1], ""))
    if changes and node.returns is not None:
        end = function.span(node.returns)[1]
        start = function.file.text.rfind("->", 0, function.span(node.returns)[0])
        while function.file.text[start - 1] == " ":
            start -= 1
        yield function.edited("type hints", "Add type hints.", *changes, (start, end, ""))


def docstring(function: PlacedFunction) -> Iterator[RewriteTask]:
    """The docstring is taken away."""
    body = function.node.body
    if ast.get_docstring(function.node) and len(body) > 1:
        start = function.offset(body[0].lineno, 0)
        end = function.offset(body[1].lineno, 0)
        yield function.edited("docstring", "Add a docstring.", (start, end, ""))


def rename(function: PlacedFunction) -> Iterator[RewriteTask]:
    """The one kind that goes forward: a local variable gets another name."""
    node, text = function.node, function.file.text
    taken = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    local = sorted(
        {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        - {a.arg for a in arguments(node)}
    )
    closed = any(
        isinstance(n, (ast.Global, ast.Nonlocal, ast.Lambda, ast.JoinedStr, ast.ClassDef))
        or (isinstance(n, FunctionNode) and n is not node)
        for n in ast.walk(node)
    )
    new = next((n for n in _NAMES if n not in taken and n not in text), None)
    if closed or not local or new is None:
        return
    old = local[0]
    places = sorted(
        function.span(n) for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == old
    )
    if len(places) >= 2:
        backward = function.edited("rename", "", *((a, b, new) for a, b in places))
        _, end = function.span(node)
        yield replace(
            backward,
            document=text,
            end=end,
            expected=backward.document,
            instruction=f"Rename the variable {old} to {new}.",
        )


def syntax(function: PlacedFunction) -> Iterator[RewriteTask]:
    """A colon or a bracket at the end of a line is lost."""
    first = function.offset(function.node.lineno, 0)
    text, end = function.file.text, function.span(function.node)[1]
    ends = [i for i in range(first, end) if text[i] in ":)]" and text[i + 1 : i + 2] in ("\n", "")]
    random.Random(function.file.id + function.name).shuffle(ends)
    for place in ends:
        task = function.edited("syntax", "Fix the syntax error.", (place, place + 1, ""))
        if not parses(task.document):
            yield task
            return


def f_string(function: PlacedFunction) -> Iterator[RewriteTask]:
    """An f-string becomes a call of `format`."""
    for node in ast.walk(function.node):
        if not isinstance(node, ast.JoinedStr) or node.lineno != node.end_lineno:
            continue
        template, arguments = "", []
        for part in node.values:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                template += part.value.replace("{", "{{").replace("}", "}}")
            elif isinstance(part, ast.FormattedValue) and part.conversion == -1:
                if part.format_spec is not None:
                    break
                template += "{}"
                arguments.append(ast.unparse(part.value))
        else:
            if arguments and function.source(node)[:2] in ('f"', "f'"):
                call = f"{template!r}.format({', '.join(arguments)})"
                start, end = function.span(node)
                instruction = "Use f-strings in place of format."
                yield function.edited("f-string", instruction, (start, end, call))
                return


def comprehension(function: PlacedFunction) -> Iterator[RewriteTask]:
    """A list comprehension that is assigned becomes a loop."""
    for node in ast.walk(function.node):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.ListComp)):
            continue
        target, value = node.targets[0], node.value
        if len(node.targets) > 1 or not isinstance(target, ast.Name) or len(value.generators) > 1:
            continue
        loop = value.generators[0]
        if loop.is_async or target.id in {n.id for n in _names(value)}:
            continue
        lines = [f"{target.id} = []"]
        lines.append(f"for {ast.unparse(loop.target)} in {ast.unparse(loop.iter)}:")
        depth = "    "
        if loop.ifs:
            lines.append(f"{depth}if {' and '.join(f'({ast.unparse(c)})' for c in loop.ifs)}:")
            depth *= 2
        lines.append(f"{depth}{target.id}.append({ast.unparse(value.elt)})")
        start, end = function.span(node)
        new = textwrap.indent("\n".join(lines), " " * node.col_offset).lstrip()
        instruction = f"Build {target.id} with a list comprehension in place of the loop."
        if len(loop.ifs) < 2:
            yield function.edited("comprehension", instruction, (start, end, new))
            return


def early_return(function: PlacedFunction) -> Iterator[RewriteTask]:
    """What follows a branch that returns moves under `else`."""
    for index, node in enumerate(function.node.body[:-1]):
        if not (isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return)):
            continue
        if node.orelse or any(isinstance(n, ast.If) for n in function.node.body[index + 1 :]):
            continue
        rest = function.node.body[index + 1 :]
        start, end = function.offset(rest[0].lineno, 0), function.span(rest[-1])[1]
        old = function.file.text[start:end]
        if '"""' in old or "'''" in old:
            continue
        blank = " " * node.col_offset
        new = f"{blank}else:\n{textwrap.indent(old, '    ')}"
        instruction = "Return early: take the code under the else out of it."
        yield function.edited("early return", instruction, (start, end, new))
        return


def error_handling(function: PlacedFunction) -> Iterator[RewriteTask]:
    """A `try` with one handler of one statement is gone, its body stays."""
    for node in ast.walk(function.node):
        if not isinstance(node, ast.Try) or node.orelse or node.finalbody:
            continue
        handler = node.handlers[0]
        if len(node.handlers) > 1 or handler.name or handler.type is None:
            continue
        if len(node.body) > 3 or len(handler.body) > 1:
            continue
        body = handler.body[0]
        if not isinstance(body, (ast.Return, ast.Pass, ast.Continue, ast.Raise, ast.Assign)):
            continue
        start, end = function.span(node)
        first = function.offset(node.body[0].lineno, 0)
        inside = function.file.text[first : function.span(node.body[-1])[1]]
        new = textwrap.indent(textwrap.dedent(inside), " " * node.col_offset).lstrip()
        what, where = ast.unparse(handler.type), ast.unparse(node.body[0]).split("\n")[0]
        instruction = f"Handle {what} from `{where}`: {ast.unparse(body)}."
        if len(node.body) > 1:
            instruction = f"Handle {what} from the {len(node.body)} statements that begin with "
            instruction += f"`{where}`: {ast.unparse(body)}."
        yield function.edited("error handling", instruction, (start, end, new))
        return


FORMS: dict[str, Callable[[PlacedFunction], Iterator[RewriteTask]]] = {
    "type hints": type_hints,
    "docstring": docstring,
    "rename": rename,
    "syntax": syntax,
    "f-string": f_string,
    "comprehension": comprehension,
    "early return": early_return,
    "error handling": error_handling,
}


def tasks_of(file: HeldOutFile) -> Iterator[RewriteTask]:
    """All tasks that the functions of a Python file give, of which the expected side parses."""
    for function in functions(file):
        for make in FORMS.values():
            for task in make(function):
                shown = task.form == "syntax" or parses(task.document)
                if shown and parses(task.expected) and task.document != task.expected:
                    yield task


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Name))
