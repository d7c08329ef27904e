"""A prompt is what the checkpoint was trained on, within its budget, and no token is cut in two."""

from __future__ import annotations

import random
import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.config import Layout
from blockdiff.errors import InvalidRequest, ModelUnsupported
from blockdiff.infill.healing import HealingConstraint, healable_tail
from blockdiff.infill.layout import build_prompt, framed
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.syntax.whitespace import to_lf
from blockdiff.types import Hole, InfillRequest, Snippet
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL
from tests.unit.toy_tokenizers import ToyTokenizer

BYTES = ToyTokenizer()
PIECES = ToyTokenizer(
    " re", " return", "turn", ".app", ".append", "    ", "        ", "   ", " =", " ==", "é", "a\n"
)


@pytest.fixture(scope="module")
def real() -> Tokenizer:
    return Tokenizer.from_gguf(store.resolve(DEFAULT_MODEL).base)


def request(
    prefix: str, suffix: str, hole: str = "", snippets: tuple[Snippet, ...] = (), budget: int = 1024
) -> InfillRequest:
    return InfillRequest(
        document=prefix + hole + suffix,
        hole=Hole(len(prefix), len(prefix) + len(hole)),
        path="home/me/src/pkg/file.py",
        language="python",
        snippets=snippets,
        context_tokens=budget,
    )


# --- the sequence of each layout


@pytest.mark.parametrize(
    "layout, shown",
    [
        (Layout.PSM, "<|fim_prefix|>{lines}<|fim_suffix|>\nb\n<|fim_middle|>a = "),
        (Layout.SPM, "<|fim_prefix|><|fim_suffix|>\nb\n<|fim_middle|>{lines}a = "),
    ],
)
def test_a_lone_file_is_the_plain_prompt(layout: Layout, shown: str) -> None:
    lines = "line\n" * 8
    prompt = build_prompt(request(f"{lines}a = ", "\nb\n", hole="old"), BYTES, layout)
    assert BYTES.show(prompt.tokens) == shown.format(lines=lines)
    assert prompt.heal == "" and prompt.fence == ""
    assert prompt.context_tokens == len(f"{lines}a = \nb\n")


def test_a_suffix_may_come_before_the_mark_of_the_prefix() -> None:
    prompt = build_prompt(request("a = 1\nb = ", "\nc\n"), BYTES, Layout.SUFFIX_FIRST)
    shown = BYTES.show(prompt.tokens)
    assert shown == "<|fim_suffix|>\nc\n<|fim_prefix|>a = 1\nb = <|fim_middle|>"


def test_in_place_the_hole_is_between_the_texts_and_nothing_else_is_there() -> None:
    snippets = (Snippet("x.py", "other"),)  # no such checkpoint has seen files side by side
    wanted = request("a = 1\nb = ", "\nc\n", snippets=snippets)
    prompt = build_prompt(wanted, BYTES, Layout.IN_PLACE)
    assert BYTES.show(prompt.tokens) == "a = 1\nb = " and BYTES.show(prompt.after) == "\nc\n"
    assert prompt.heal == "" and prompt.context_tokens == len(prompt.tokens) + len(prompt.after)
    both = framed(prompt, (7,), (8, 9))
    assert both.tokens == (7, *prompt.tokens) and both.after == (*prompt.after, 8, 9)


@pytest.mark.parametrize("layout", [Layout.PSM, Layout.SPM])
def test_snippets_make_a_repository_with_the_most_relevant_one_last(layout: Layout) -> None:
    snippets = (Snippet("x/near.py", "near = 1"), Snippet("y\\far.py", "far = 2\r\n"))
    prompt = build_prompt(request("a", "b", snippets=snippets), BYTES, layout)
    shown = BYTES.show(prompt.tokens)
    assert shown.startswith(
        "<|repo_name|>repository\n<|file_sep|>y/far.py\nfar = 2\n<|file_sep|>x/near.py\nnear = 1\n"
        "<|file_sep|>src/pkg/file.py\n<|fim_prefix|>"
    )
    assert prompt.context_tokens == len(prompt.tokens) - 3


def test_snippets_get_what_the_file_leaves() -> None:
    long = Snippet("s.py", "line of a snippet\n" * 100)
    for budget in (48, 64, 128, 300):
        prompt = build_prompt(
            request("a\n", "b\n", snippets=(long,), budget=budget), BYTES, Layout.PSM
        )
        assert prompt.context_tokens <= budget
        shown = BYTES.show(prompt.tokens)
        assert ("line of a snippet\n<|file_sep|>src" in shown) == (budget > 64)
    full = request("a\n" * 100, "b\n" * 100, snippets=(long,), budget=128)
    assert BYTES.show(build_prompt(full, BYTES, Layout.PSM).tokens).startswith("<|fim_prefix|>")


def test_chat_ends_inside_the_answer() -> None:
    prompt = build_prompt(request("def f():\n    x = ", "\n"), BYTES, Layout.CHAT)
    shown = BYTES.show(prompt.tokens)
    assert shown.startswith("<|im_start|>system\n") and shown.count("<|im_end|>\n") == 2
    assert "def f():\n    x = <<<HOLE>>>\n```" in shown
    assert shown.endswith("<|im_start|>assistant\n```python\n    x = ")
    assert prompt.fence == "```"


def test_chat_with_an_instruction_shows_the_text_to_rewrite() -> None:
    wanted = request("a\n", "c\n", hole="b\n")
    shown = BYTES.show(
        build_prompt(wanted, BYTES, Layout.CHAT, instruction="  make it HOLE `````  ").tokens
    )
    assert "```python\na\nb\nc\n```\n" in shown, "the file as it stands, without marks"
    assert ": make it HOLE `````\n```python\nb\n\n```\n" in shown, "and the part by itself"
    assert shown.endswith("assistant\n```python\n")


def test_the_part_to_rewrite_is_shown_indented_as_it_stands() -> None:
    wanted = request("class A:\n    ", "\n", hole="x = 1\n    y = 2")
    shown = BYTES.show(build_prompt(wanted, BYTES, Layout.CHAT, instruction="sort").tokens)
    assert ": sort\n```python\n    x = 1\n    y = 2\n```\n" in shown
    assert shown.endswith("assistant\n```python\n    ")


def test_the_mark_and_the_fences_of_a_chat_do_not_occur_in_the_text() -> None:
    prompt = build_prompt(request("HOLE HOLE1\n````\n", "x"), BYTES, Layout.CHAT)
    assert "<<<HOLE2>>>x" in BYTES.show(prompt.tokens)
    assert prompt.fence == "`````"


def test_chat_shows_snippets() -> None:
    wanted = request("a\n", "c\n", snippets=(Snippet("lib.py", "import os"),))
    shown = BYTES.show(build_prompt(wanted, BYTES, Layout.CHAT).tokens)
    assert "File `lib.py`:\n```\nimport os\n```" in shown


@pytest.mark.parametrize(
    "layout, missing",
    [(Layout.PSM, "fim_middle"), (Layout.SPM, "fim_suffix"), (Layout.CHAT, "im_end")],
)
def test_a_checkpoint_without_the_tokens_is_refused(layout: Layout, missing: str) -> None:
    with pytest.raises(ModelUnsupported):
        build_prompt(request("a", "b"), ToyTokenizer(without=(missing,)), layout)


def test_a_checkpoint_without_repository_tokens_gets_the_plain_prompt() -> None:
    tokenizer = ToyTokenizer(without=("repo_name",))
    wanted = request("a", "b", snippets=(Snippet("s.py", "x = 1\n" * 5),))
    assert tokenizer.show(build_prompt(wanted, tokenizer, Layout.PSM).tokens).startswith(
        "<|fim_pre"
    )


def test_contradictions_are_errors() -> None:
    with pytest.raises(InvalidRequest, match="instruction"):
        build_prompt(request("a", "b"), BYTES, Layout.PSM, instruction="shorter")


def test_the_model_sees_neither_bom_nor_crlf() -> None:
    prompt = build_prompt(request("\ufeffa\r\nb", "\r\nc\r\n"), BYTES, Layout.PSM)
    assert BYTES.show(prompt.tokens) == "<|fim_prefix|>a\n<|fim_suffix|>\nc\n<|fim_middle|>b"
    prompt = build_prompt(request("", "\ufeffa"), BYTES, Layout.PSM)
    assert BYTES.show(prompt.tokens) == "<|fim_prefix|><|fim_suffix|>a<|fim_middle|>"


def test_a_hole_that_covers_the_whole_file() -> None:
    prompt = build_prompt(request("", "", hole="everything\n"), BYTES, Layout.PSM)
    assert BYTES.show(prompt.tokens) == "<|fim_prefix|><|fim_suffix|><|fim_middle|>"
    assert prompt.context_tokens == 0


# --- the budget


@pytest.mark.parametrize(
    "before, after, kept_before, kept_after",
    [
        (20, 20, 20, 20),  # both fit: 3 tokens a line
        (400, 400, 48, 25),  # 149 of 224, from a line that stays; and the other 75
        (400, 2, 64, 2),  # the suffix leaves 218
        (8, 400, 8, 65),  # 24 tokens, counted as 28
    ],
)
def test_nearest_lines_first(before: int, after: int, kept_before: int, kept_after: int) -> None:
    wanted = request("pp\n" * before, "ss\n" * after, budget=256)
    shown = BYTES.show(build_prompt(wanted, BYTES, Layout.PSM).tokens)
    assert (shown.count("pp\n"), shown.count("ss\n")) == (kept_before, kept_after)
    assert "<|fim_prefix|>pp\n" in shown and "ss\n<|fim_middle|>" in shown


def test_a_long_line_is_cut_between_characters() -> None:
    wanted = request("é" * 3000, "😀" * 3000, budget=100)
    shown = BYTES.show(build_prompt(wanted, BYTES, Layout.PSM).tokens)
    assert "\ufffd" not in shown
    assert (shown.count("é"), shown.count("😀")) == (29, 7)


TEXT = st.text(st.sampled_from(" \n\r\tab()é😀=."), max_size=300)


@settings(deadline=None)
@given(prefix=TEXT, suffix=TEXT, budget=st.integers(16, 200), heal=st.booleans())
@pytest.mark.parametrize("layout", [Layout.PSM, Layout.SPM])
@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_prompts_are_unbroken_pieces_within_the_budget(
    tokenizer: ToyTokenizer, layout: Layout, prefix: str, suffix: str, budget: int, heal: bool
) -> None:
    prompt = build_prompt(request(prefix, suffix, budget=budget), tokenizer, layout, heal=heal)
    special = tokenizer.special
    marks = [i for i in prompt.tokens if tokenizer.is_special(i)]
    assert marks == [special.fim_prefix, special.fim_suffix, special.fim_middle]
    tokens = list(prompt.tokens)
    first, second, third = (tokens.index(mark) for mark in marks)
    if layout is Layout.PSM:
        before, after = tokens[first + 1 : second] + tokens[third + 1 :], tokens[second + 1 : third]
    else:
        before, after = tokens[third + 1 :], tokens[second + 1 : third]
    assert prompt.context_tokens == len(before) + len(after) <= budget
    healed = tokenizer.encode(prompt.heal)
    whole_before = tokenizer.encode(to_lf(prefix))
    whole_after = tokenizer.encode(to_lf(suffix))
    assert heal or not prompt.heal
    whole = before + healed
    assert whole_before[len(whole_before) - len(whole) :] == whole
    assert whole_after[: len(after)] == after
    assert not whole or tokenizer.token_bytes(whole[0])[0] & 0xC0 != 0x80
    assert len(after) == len(whole_after) or (
        tokenizer.token_bytes(whole_after[len(after)])[0] & 0xC0 != 0x80
    )


@pytest.mark.parametrize("line", ["x = call(1)\n", "x = call(1); ", "😀", "\r\n", " "])
def test_a_megabyte_is_not_tokenized(line: str) -> None:
    class Counting(ToyTokenizer):
        longest = 0

        def encode(self, text: str) -> list[int]:
            self.longest = max(self.longest, len(text))
            return super().encode(text)

    tokenizer = Counting()
    half = line * (500_000 // len(line))
    prompt = build_prompt(request(half, half, budget=256), tokenizer, Layout.PSM)
    assert tokenizer.longest <= 256 * 32
    assert 150 <= prompt.context_tokens <= 256


@pytest.mark.parametrize("size", [10, 600, 6000])
def test_a_text_to_rewrite_is_shown_besides_the_budget(size: int) -> None:
    span = ("x = 1\n" * size)[:size]
    wanted = request("a = 2\n" * 2000, "b = 3\n" * 2000, span, budget=300)
    prompt = build_prompt(wanted, BYTES, Layout.CHAT, instruction="shorter")
    assert size < prompt.context_tokens <= size + 300
    plain = build_prompt(request("a = 2\n" * 2000, "", budget=300), BYTES, Layout.CHAT)
    around = len(prompt.tokens) - 2 * size  # it stands in the file, and by itself
    assert around < len(plain.tokens) + 300


# --- token healing


@pytest.mark.parametrize(
    "prefix, heal",
    [
        ("x.app", ".app"),  # `.append` exists
        ("x.append", ""),
        (" re", " re"),
        ("y = ", " "),  # ` =`, ` re` and others begin with a space
        ("y =", " ="),
        ("\n    ", "    "),  # eight spaces are a token too
        ("a\n", ""),  # only a blank line could merge with a line break
        ("q", ""),
        ("", ""),
        ("  ", "  "),  # two tokens, which three spaces extend
    ],
)
def test_the_tail_that_a_token_extends_is_healed(prefix: str, heal: str) -> None:
    prompt = build_prompt(request(prefix, "\n"), PIECES, Layout.PSM)
    assert prompt.heal == heal
    kept = prefix[: len(prefix) - len(heal)]
    before, line = kept[: kept.rfind("\n") + 1], kept[kept.rfind("\n") + 1 :]
    expected = f"<|fim_prefix|>{before}<|fim_suffix|>\n<|fim_middle|>{line}"
    assert PIECES.show(prompt.tokens) == expected
    assert build_prompt(request(prefix, "\n"), PIECES, Layout.PSM, heal=False).heal == ""
    in_place = build_prompt(request(prefix, "\n"), PIECES, Layout.IN_PLACE)
    assert in_place.heal == heal and PIECES.show(in_place.tokens) == kept
    assert PIECES.show(in_place.after) == "\n"


def test_a_tail_within_a_character_is_left_alone() -> None:
    tokenizer = ToyTokenizer("é")
    head = "é".encode()[:1]
    assert healable_tail([head[0]], tokenizer) == (0, "")


HEALS = st.text(st.sampled_from(" .=aenpdrtué"), min_size=1, max_size=10)


@settings(deadline=None)
@given(heal=HEALS, seed=st.integers(0, 2**32))
@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_whatever_is_allowed_spells_the_healed_text(
    tokenizer: ToyTokenizer, heal: str, seed: int
) -> None:
    constraint, chance = HealingConstraint(tokenizer, heal), random.Random(seed)
    written: list[int] = []
    while True:
        so_far = b"".join(map(tokenizer.token_bytes, written))
        allowed = constraint.allowed(so_far)
        if allowed is None:
            break
        left = heal.encode()[len(so_far) :]
        assert sorted(allowed) == [
            token
            for token in range(tokenizer.vocab_size)
            if (text := tokenizer.token_bytes(token))
            and (text.startswith(left) or left.startswith(text))
        ]
        written.append(chance.choice(list(allowed)))
    assert tokenizer.decode(written).startswith(heal)


def test_a_contradiction_is_an_error() -> None:
    with pytest.raises(ValueError):
        HealingConstraint(BYTES, "ab").allowed(b"x")
    assert HealingConstraint(BYTES, "").allowed(b"") is None


# --- the real vocabulary


@pytest.mark.model
@pytest.mark.parametrize(
    "prefix, heal",
    [
        ("foo.app", ".app"),
        ("def f():\n    ", "    "),
        ("def f():\n", ""),
        ("    retu", " retu"),  # ` ret` `u`, and ` return` is one token
        ("    self.assertEqu", ".assertEqu"),
        ("x = ", " "),
        ("call(", "("),
        ("\n  ", "  "),
        ("x = 5", ""),  # digits are tokens of their own
    ],
)
def test_healing_with_the_real_vocabulary(real: Tokenizer, prefix: str, heal: str) -> None:
    prompt = build_prompt(request(prefix, "\n"), real, Layout.PSM)
    assert prompt.heal == heal
    if heal:
        constraint = HealingConstraint(real, heal)
        allowed = constraint.allowed(b"")
        assert allowed and not any(map(real.is_special, allowed))
        assert min(timeit.repeat(lambda: constraint.allowed(b""), number=1, repeat=9)) < 0.005


@pytest.mark.model
@settings(deadline=None, max_examples=100)
@given(
    pieces=st.lists(
        st.sampled_from(
            [
                "<|fim_middle|>",
                "<|endoftext|>",
                "<|",
                "|>",
                "fim_",
                "im_start",
                "[PAD151665]",
                "\r\n",
            ]
        )
        | st.text(max_size=5),
        max_size=12,
    ),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_no_text_around_a_hole_becomes_a_special_token(
    real: Tokenizer, pieces: list[str], cuts: tuple[float, float]
) -> None:
    document = "".join(pieces)
    start, end = sorted(int(cut * len(document)) for cut in cuts)
    assert not any(map(real.is_special, real.encode(document)))
    wanted = InfillRequest(
        document, Hole(start, end), snippets=(Snippet("<|file_sep|>", document),)
    )
    special = real.special
    files = [special.repo_name, special.file_sep, special.file_sep]
    turn = [special.im_start, special.im_end]
    marks = {
        Layout.PSM: [special.fim_prefix, special.fim_suffix, special.fim_middle],
        Layout.SPM: [special.fim_prefix, special.fim_suffix, special.fim_middle],
        Layout.SUFFIX_FIRST: [special.fim_suffix, special.fim_prefix, special.fim_middle],
        Layout.IN_PLACE: [],
        Layout.CHAT: [*turn, *turn, special.im_start],
    }
    for layout in Layout:
        prompt = build_prompt(wanted, real, layout)
        found = [token for token in (*prompt.tokens, *prompt.after) if real.is_special(token)]
        assert found in (marks[layout], files + marks[layout])


# --- what is kept for snippets


SIGNATURES = (
    Snippet("a.py", "def first(a, b): ...\n" * 4),
    Snippet("b.py", "def second(c): ...\n" * 4),
)


@pytest.mark.parametrize("layout", [Layout.PSM, Layout.SPM, Layout.CHAT])
def test_a_share_is_kept_for_snippets_however_long_the_file_is(layout: Layout) -> None:
    long = "a line of the file\n" * 200
    plain = request(long, long, snippets=SIGNATURES, budget=512)
    kept = InfillRequest(**{**fields_of(plain), "snippet_tokens": 256})
    before, after = (build_prompt(one, BYTES, layout) for one in (plain, kept))
    lines = [BYTES.show(prompt.tokens).count("def first") for prompt in (before, after)]
    assert lines[0] < 2 and lines[1] == 4
    assert after.context_tokens <= 512 and before.context_tokens <= 512


def test_no_more_is_kept_than_snippets_need_and_never_more_than_half() -> None:
    long = "a line of the file\n" * 200
    plain = request(long, long, budget=512)
    none = InfillRequest(**{**fields_of(plain), "snippet_tokens": 256})
    assert build_prompt(none, BYTES, Layout.PSM) == build_prompt(plain, BYTES, Layout.PSM)
    huge = (Snippet("s.py", "line of a snippet\n" * 500),)
    greedy = InfillRequest(**{**fields_of(plain), "snippets": huge, "snippet_tokens": 1 << 20})
    shown = BYTES.show(build_prompt(greedy, BYTES, Layout.PSM).tokens)
    assert shown.count("a line of the file") >= 8


def test_typing_beside_snippets_changes_the_end_of_the_prompt_only() -> None:
    before, after = "value = 1\n" * 60, "\nother = 2\n" * 60

    def prompt(typed: str) -> list[int]:
        made = request(before + typed, after, snippets=SIGNATURES, budget=700)
        made = InfillRequest(**{**fields_of(made), "snippet_tokens": 250})
        return list(build_prompt(made, BYTES, Layout.PSM).tokens)

    first = prompt("x = f")
    for typed in ("x = fi", "x = fir", "x = firs", "x = first", "x = first("):
        tokens = prompt(typed)
        same = next(
            (i for i, (a, b) in enumerate(zip(first, tokens, strict=False)) if a != b), len(first)
        )
        assert len(tokens) - same < 16


def fields_of(value: InfillRequest) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
