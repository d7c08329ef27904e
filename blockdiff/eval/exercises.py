"""Small functions with tests, written for this: what bugs are repaired in and bodies written for.

Rewrites of these are run, not compared: there is more than one right body.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockdiff.eval.rewrite_task import RewriteTask


@dataclass(frozen=True, slots=True)
class Exercise:
    """A function, a fragment of it with the bug that replaces it, and what the tests assert."""

    source: str
    right: str
    wrong: str
    tests: str

    @property
    def name(self) -> str:
        return self.source.split("(", 1)[0].removeprefix("def ")


EXERCISES = (
    Exercise(
        '''def chunked(items, size):
    """Split a list into lists of `size` items; the last one may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]
''',
        "start + size]",
        "start + size - 1]",
        "assert chunked([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]\nassert chunked([], 3) == []",
    ),
    Exercise(
        '''def clamp(value, low, high):
    """Return `value`, but at least `low` and at most `high`."""
    if value < low:
        return low
    if value > high:
        return high
    return value
''',
        "if value > high",
        "if value < high",
        "assert [clamp(x, 0, 5) for x in (-3, 0, 4, 5, 9)] == [0, 0, 4, 5, 5]",
    ),
    Exercise(
        '''def merge_counts(first, second):
    """Add two dictionaries of counts into a new one, without changing either."""
    merged = dict(first)
    for key, count in second.items():
        merged[key] = merged.get(key, 0) + count
    return merged
''',
        "merged.get(key, 0) + count",
        "count",
        "a = {'x': 1}\nassert merge_counts(a, {'x': 2, 'y': 3}) == {'x': 3, 'y': 3}\n"
        "assert a == {'x': 1}",
    ),
    Exercise(
        '''def parse_duration(text):
    """Seconds of a text such as "90s", "5m" or "2h".

    Raises ValueError for any other unit.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = text[:-1], text[-1]
    if unit not in units:
        raise ValueError(f"unknown unit: {unit}")
    return int(number) * units[unit]
''',
        "int(number) * units[unit]",
        "int(number) + units[unit]",
        "assert [parse_duration(t) for t in ('90s', '5m', '2h')] == [90, 300, 7200]\n"
        "try:\n    parse_duration('3x')\nexcept ValueError:\n    pass\nelse:\n    assert False",
    ),
    Exercise(
        '''def dot_path(data, path, default=None):
    """Look up a path such as "a.b.c" in nested dictionaries; `default` where it leads nowhere."""
    for key in path.split("."):
        if not isinstance(data, dict) or key not in data:
            return default
        data = data[key]
    return data
''',
        "or key not in data",
        "and key not in data",
        "d = {'a': {'b': {'c': 7}}}\nassert dot_path(d, 'a.b.c') == 7\n"
        "assert dot_path(d, 'a.x.c', 0) == 0\nassert dot_path(d, 'a.b.c.d') is None",
    ),
    Exercise(
        '''def word_wrap(text, width):
    """Break a text into lines of at most `width` characters, between words only."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        lines.append(line)
    return lines
''',
        "            line = word\n        else",
        '            line = ""\n        else',
        "assert word_wrap('the quick brown fox', 10) == ['the quick', 'brown fox']\n"
        "assert word_wrap('', 5) == []",
    ),
    Exercise(
        '''def find_cycle(following, start):
    """Whether following the dictionary from `start` comes back to a key it has been at."""
    seen = set()
    current = start
    while current in following:
        if current in seen:
            return True
        seen.add(current)
        current = following[current]
    return False
''',
        "        seen.add(current)\n",
        "",
        "assert find_cycle({1: 2, 2: 3, 3: 1}, 1) is True\nassert find_cycle({1: 2}, 1) is False",
    ),
    Exercise(
        '''def running_mean(values, window):
    """Mean of every `window` values that follow one another, from the first to the last."""
    means = []
    for end in range(window, len(values) + 1):
        means.append(sum(values[end - window : end]) / window)
    return means
''',
        "len(values) + 1",
        "len(values)",
        "assert running_mean([1, 2, 3, 4], 2) == [1.5, 2.5, 3.5]\n"
        "assert running_mean([1], 2) == []",
    ),
)


def bug(exercise: Exercise) -> RewriteTask:
    """One fragment is wrong, and the docstring tells what is right."""
    shown = exercise.source.replace(exercise.right, exercise.wrong)
    return _task("bug", "Fix the bug.", exercise, shown)


def body(exercise: Exercise) -> RewriteTask:
    """Nothing is left behind the docstring but `...`."""
    head = exercise.source[: exercise.source.rindex('"""') + 3]
    instruction = "Write the body that the docstring describes."
    return _task("body", instruction, exercise, f"{head}\n    ...\n")


def tasks() -> list[RewriteTask]:
    return [make(exercise) for make in (bug, body) for exercise in EXERCISES]


def _task(form: str, instruction: str, exercise: Exercise, shown: str) -> RewriteTask:
    return RewriteTask(
        id=f"{form}/{exercise.name}",
        form=form,
        path=f"{exercise.name}.py",
        document=shown,
        start=0,
        end=len(shown.rstrip()),
        instruction=instruction,
        expected=exercise.source,
        function=exercise.name,
        tests=exercise.tests,
    )
