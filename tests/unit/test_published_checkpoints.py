"""Infilling and rewriting with checkpoints in the hub's layout, through the engine and the command.

Tiny random ones: what they write means nothing, but how it is asked for, written, streamed, cut and
refused is what it is for the large ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_folder import as_parts, special, write

from blockdiff.cli.app import run
from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.engine.engine import Engine
from blockdiff.errors import (
    BlockdiffError,
    Cancelled,
    ExitCode,
    InvalidRequest,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
)
from blockdiff.types import Finished, Hole, InfillRequest, Refinement, RewriteRequest

DOCUMENT = "def area(width, height):\n    size = \n    return size\n\n\nprint(area(2, 3))\n"
HOLE = DOCUMENT.index("= \n") + 2
BIDIRECTIONAL = ["dream", "dreamon", "open-dcoder", "llada", "coda", "rnd1"]
BLOCKS = ["stable-diffcoder", "a2d (qwen2)"]
INSTRUCTED = [
    "sdar", "sdar-moe", "llada2", "llada2 (2.2)", "fast-dllm", "a2d (qwen3)", "nemotron",
]  # fmt: skip

# Stable-DiffCoder's own names for the marks are those of its tokenizer; the tiny one has Qwen's.


def engine(tmp_path: Path, family: str) -> Engine:
    return Engine.load(str(write(tmp_path / "it", family)), device="cpu", dtype="float32")


def request(**changes: object) -> InfillRequest:
    decoding = DecodingConfig(max_tokens=12, rule=Rule.SCHEDULE)
    values: dict[str, object] = {
        "document": DOCUMENT, "hole": Hole(HOLE, HOLE), "path": "a.py", "decoding": decoding,
    }  # fmt: skip
    return InfillRequest(**(values | changes))  # type: ignore[arg-type]


def finished(events: object) -> Finished:
    last = list(events)[-1]  # type: ignore[call-overload]
    assert isinstance(last, Finished)
    return last


@pytest.mark.parametrize("family", BIDIRECTIONAL + BLOCKS)
def test_the_command_fills_a_hole_and_streams_every_refinement(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.py"
    file.write_text(DOCUMENT)
    folder = write(tmp_path / "it", family)
    line = ["infill", str(file), "--at", "2:12", "--model", str(folder), "--dtype", "float32"]
    line += ["--max-tokens", "12", "--rule", "schedule", "--json"]
    assert run(line) == ExitCode.OK
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    refinements = [event for event in events if event["event"] == "refinement"]
    assert [event["seq"] for event in refinements] == list(range(len(refinements)))
    assert len(refinements) > 2
    if family in BIDIRECTIONAL:  # the others may be cut where their text says nothing any more
        settled = [sum(span[2] for span in event["spans"]) for event in refinements]
        assert settled[0] < settled[-1] == len(refinements[-1]["spans"])
    last = events[-1]
    assert last["event"] == "finished" and last["mode"] == "diffusion" and last["model"] == "it"
    assert not any(name in last["text"] for name in special())
    assert file.read_text() == DOCUMENT
    assert run([*line, "--write", "--quiet"]) == ExitCode.OK
    written = file.read_text()
    assert written.startswith(DOCUMENT[:HOLE]) and written.endswith(DOCUMENT[HOLE:].lstrip("\n"))


@pytest.mark.parametrize("family", BIDIRECTIONAL + BLOCKS)
def test_the_same_request_has_the_same_text_cold_and_warm(family: str, tmp_path: Path) -> None:
    made = engine(tmp_path, family)
    for temperature in (0.0, 1.0):
        decoding = DecodingConfig(max_tokens=12, temperature=temperature, seed=5)
        asked = request(decoding=decoding)
        cold, warm = finished(made.infill(asked)), finished(made.infill(asked))
        made.forget()
        again = finished(made.infill(asked))
        assert cold.text == warm.text == again.text
    if family in BLOCKS:  # whole blocks of the context are there already
        assert 0 < warm.cached_tokens <= warm.context_tokens
    else:
        assert warm.cached_tokens == 0


@pytest.mark.parametrize("family", BIDIRECTIONAL + BLOCKS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancelled_request_leaves_nothing_behind(
    family: str, after: int, tmp_path: Path
) -> None:
    made = engine(tmp_path, family)
    expected = finished(made.infill(request())).text
    made.forget()
    asked = [0]

    def cancelled() -> bool:
        asked[0] += 1
        return asked[0] > after

    with pytest.raises(Cancelled):
        list(made.infill(request(), cancelled))
    assert finished(made.infill(request())).text == expected


@pytest.mark.parametrize("family", ["dream", "dreamon", "llada"])
@pytest.mark.parametrize("reuse", [Reuse.PREFIX, Reuse.DUAL])
def test_an_approximate_cache_fills_the_hole_too(
    family: str, reuse: Reuse, tmp_path: Path
) -> None:
    made = engine(tmp_path, family)
    decoding = DecodingConfig(max_tokens=12, rule=Rule.SCHEDULE, cache=reuse)
    first, again = (finished(made.infill(request(decoding=decoding))) for _ in range(2))
    assert first.text == again.text and 0 <= first.tokens <= 12


def test_a_hole_that_resizes_itself_stays_within_max_tokens(tmp_path: Path) -> None:
    made = engine(tmp_path, "dreamon")
    lengths = set()
    for seed in range(8):
        decoding = DecodingConfig(max_tokens=9, temperature=6.0, seed=seed, rule=Rule.SCHEDULE)
        done = finished(made.infill(request(decoding=decoding)))
        assert done.tokens <= 9
        lengths.add(done.tokens)
    assert len(lengths) > 1


def test_a_word_cut_by_the_hole_is_healed_in_a_fim_layout(tmp_path: Path) -> None:
    document = "def area(width, height):\n    re\n"
    end = document.index("re\n") + 2
    made = engine(tmp_path, "a2d (qwen2)")
    done = finished(made.infill(request(document=document, hole=Hole(end, end))))
    first = next(e for e in made.infill(request(document=document, hole=Hole(end, end))))
    assert isinstance(first, Refinement)
    assert not first.text.startswith("re") or done.text.startswith("re")
    assert done.tokens >= 1


@pytest.mark.parametrize("family", INSTRUCTED)
def test_what_cannot_infill_says_so_and_rewrites(family: str, tmp_path: Path) -> None:
    made = engine(tmp_path, family)
    with pytest.raises(ModelUnsupported, match="cannot infill, only rewrite by instruction"):
        list(made.infill(request()))
    start = DOCUMENT.index("print")
    asked = RewriteRequest(
        DOCUMENT, Hole(start, len(DOCUMENT)), "use a variable",
        decoding=DecodingConfig(max_tokens=10),
    )  # fmt: skip
    assert finished(made.rewrite(asked)).tokens <= 10


def asked(**decoding: object) -> RewriteRequest:
    settings = DecodingConfig(**({"max_tokens": 12} | decoding))  # type: ignore[arg-type]
    return RewriteRequest(DOCUMENT, Hole(0, 20), "use a variable", decoding=settings)


def test_one_set_of_weights_writes_in_three_modes(tmp_path: Path) -> None:
    """Nemotron-Labs-Diffusion: its masks draft, its exact rows check."""
    made = engine(tmp_path, "nemotron")
    assert made.drafts
    ar, verify, diffusion = (finished(made.rewrite(asked(mode=mode))) for mode in Mode)
    assert verify.text == ar.text and verify.tokens == ar.tokens
    assert [done.mode for done in (ar, verify, diffusion)] == ["ar", "verify", "diffusion"]
    for mode in Mode:  # and the next request finds nothing of it
        again = finished(made.rewrite(asked(mode=mode)))
        assert again.text == {Mode.DIFFUSION: diffusion}.get(mode, ar).text
        assert again.cached_tokens == again.context_tokens - 1
    with pytest.raises(InvalidRequest, match="rule syntax"):
        list(made.rewrite(asked(mode=Mode.DIFFUSION, rule=Rule.SYNTAX)))
    unasked = RewriteRequest(DOCUMENT, Hole(0, 20), "", decoding=DecodingConfig())
    assert finished(made.rewrite(unasked)).forwards > 0  # its exact rows suffice for that


@pytest.mark.parametrize("family", ["llada2", "llada2 (2.2)"])
def test_what_is_written_may_be_edited(family: str, tmp_path: Path) -> None:
    made = engine(tmp_path, family)
    editing = asked(mode=Mode.DIFFUSION, rule=Rule.EDIT, threshold=0.3, edit_threshold=0.3)
    first, again = finished(made.rewrite(editing)), finished(made.rewrite(editing))
    assert first.text == again.text and first.tokens <= 12
    assert not any(name in first.text for name in special())
    plain = finished(made.rewrite(asked(mode=Mode.DIFFUSION, rule=Rule.THRESHOLD, threshold=0.3)))
    assert not any(name in plain.text for name in special())
    assert first.forwards > plain.forwards


def test_a_bidirectional_one_rewrites_by_instruction(tmp_path: Path) -> None:
    asked = RewriteRequest(
        DOCUMENT, Hole(0, 20), "shorter", decoding=DecodingConfig(max_tokens=8)
    )
    assert finished(engine(tmp_path, "dream").rewrite(asked)).tokens <= 8


def test_the_command_refuses_an_infill_with_a_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.py"
    file.write_text(DOCUMENT)
    folder = write(tmp_path / "it", "sdar")
    line = ["infill", str(file), "--at", "2:12", "--model", str(folder), "--dtype", "float32"]
    assert run(line) == ExitCode.MODEL
    said = capsys.readouterr().err
    assert "cannot infill" in said and "rewrite --instruction" in said


@pytest.mark.parametrize(
    ("family", "decoding", "says"),
    [
        ("dream", DecodingConfig(mode=Mode.AR), "no mode ar"),
        ("a2d (qwen2)", DecodingConfig(block_size=3), "trained with blocks of 4"),
        ("llada", DecodingConfig(rule=Rule.EDIT), "rule edit"),
        ("a2d (qwen2)", DecodingConfig(cache=Reuse.DUAL), "for bidirectional checkpoints"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    family: str, decoding: DecodingConfig, says: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        list(engine(tmp_path, family).infill(request(decoding=decoding)))


def test_more_context_than_the_model_has_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "it", "dream", max_position_embeddings=32)
    made = Engine.load(str(folder), device="cpu", dtype="float32")
    with pytest.raises(InvalidRequest, match="context of 32"):
        list(made.infill(request()))


def test_the_older_files_make_the_same_tokenizer(tmp_path: Path) -> None:
    folder = write(tmp_path / "it", "dream")
    new = Engine.load(str(folder), device="cpu", dtype="float32")
    expected = finished(new.infill(request())).text
    as_parts(folder)
    old = Engine.load(str(folder), device="cpu", dtype="float32")
    assert old.tokenizer.encode(DOCUMENT) == new.tokenizer.encode(DOCUMENT)
    assert finished(old.infill(request())).text == expected


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _no_mask(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token_id": 5}))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _merges_cut(folder: Path) -> None:
    as_parts(folder)
    (folder / "merges.txt").write_text("a b c\n")


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (_no_tokenizer, ModelNotFound, "tokenizer.json"),
        (_no_mask, ModelCorrupt, "no token for mask_token_id 5"),
        (_pickled, ModelUnsupported, "pickled"),
        (_merges_cut, ModelCorrupt, "merges.txt"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(
    spoil: Callable[[Path], None], error: type[BlockdiffError], says: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "it", "dream")
    spoil(folder)
    with pytest.raises(error, match=says):
        Engine.load(str(folder), device="cpu", dtype="float32")


def test_info_of_a_folder_reads_its_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "info", str(write(tmp_path / "it", "dreamon"))]) == ExitCode.OK
    out = capsys.readouterr().out
    for fact in ("dreamon", "full, one canvas", "infill (in_place)", "in int4", "computed"):
        assert fact in out
    assert run(["models", "info", str(write(tmp_path / "other", "sdar"))]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "block, blocks of 4" in out and "rewrite by instruction only" in out
