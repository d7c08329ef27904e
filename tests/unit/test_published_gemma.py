"""Infilling and rewriting with DiffusionGemma, through the engine and the command.

A tiny random checkpoint of transformers' own class, with Gemma's kind of tokenizer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from blockdiff.cli.app import run
from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.engine.batch import Batch
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
from blockdiff.eval.smoke import checked
from blockdiff.infill.layout import build_prompt, framed
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.types import Filled, Finished, Hole, InfillRequest, RewriteRequest
from tests.unit import gemma_folder

DOCUMENT = "def area(width, height):\n    size = \n    return size\n\n\nprint(area(2, 3))\n"
HOLE = DOCUMENT.index("= \n") + 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma_folder.write(tmp_path_factory.mktemp("gemma") / "it")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(str(folder), device="cpu", dtype="float32")


def request(**decoding: object) -> InfillRequest:
    config = DecodingConfig(**{"max_tokens": 12, **decoding})  # type: ignore[arg-type]
    return InfillRequest(DOCUMENT, Hole(HOLE, HOLE), path="a.py", decoding=config)


def rewriting(**decoding: object) -> RewriteRequest:
    config = DecodingConfig(**{"max_tokens": 60, **decoding})  # type: ignore[arg-type]
    start = DOCUMENT.index("    size")
    return RewriteRequest(DOCUMENT, Hole(start, HOLE), "shorter", path="a.py", decoding=config)


def finished(events: Iterator[object]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


def test_the_command_fills_a_hole_and_streams_every_step(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.py"
    file.write_text(DOCUMENT)
    line = ["infill", str(file), "--at", "2:12", "--model", str(folder), "--dtype", "float32"]
    line += ["--max-tokens", "12", "--seed", "1"]
    assert run([*line, "--json"]) == ExitCode.OK
    said = capsys.readouterr()
    events = [json.loads(text) for text in said.out.splitlines()]
    assert "Loading weights" not in said.err  # what transformers draws on a terminal
    *drafts, last = events
    assert len(drafts) > 2 and {draft["event"] for draft in drafts} == {"refinement"}
    assert not any(draft["settled"] for draft in drafts[:-1])  # all may change until the end
    assert [span[2] for span in drafts[-1]["spans"]] == [True] * len(drafts[-1]["spans"])
    assert last["event"] == "finished" and last["finish"] == "eom"
    assert last["mode"] == "diffusion" and last["model"] == "it"
    assert 1 <= last["tokens"] <= 12 and last["forwards"] > len(drafts)  # a search for the length
    assert file.read_text() == DOCUMENT
    assert run([*line, "--write", "--quiet"]) == ExitCode.OK
    assert file.read_text() == DOCUMENT[:HOLE] + last["text"] + DOCUMENT[HOLE:]


def test_the_command_rewrites_by_instruction(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.py"
    file.write_text(DOCUMENT)
    line = ["rewrite", str(file), "--lines", "2-3", "--model", str(folder), "--dtype", "float32"]
    line += ["--max-tokens", "60", "--json"]
    assert run([*line, "--instruction", "shorter"]) == ExitCode.OK
    *drafts, last = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert last["event"] == "finished" and last["mode"] == "diffusion"
    assert 0 < last["tokens"] <= 60 and last["forwards"] == len(drafts)
    assert run(line) == ExitCode.MODEL  # there is no adapter to denoise with
    assert "give an instruction" in capsys.readouterr().out


def test_info_and_check_tell_what_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "info", str(folder)]) == ExitCode.OK
    said = capsys.readouterr().out
    for part in ("diffusion-gemma", "canvas, 24 tokens", "wrong tokens", "infill", "bfloat16"):
        assert part in said
    assert "int8" not in said
    assert run(["models", "check", str(folder), "--dtype", "float32"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "all finite" in said and "infill" in said
    assert run(["models", "info", "diffusiongemma-26b"]) == ExitCode.OK
    assert "25.25 billion parameters" in capsys.readouterr().out


def test_text_behind_the_hole_is_read(engine: Engine) -> None:
    """Of two documents that differ in it alone, holes are filled differently."""
    other = DOCUMENT.replace("return size", "return width * 2")
    for seed in range(3):
        config = DecodingConfig(max_tokens=12, seed=seed)
        first, second = (
            [e for e in engine.infill(InfillRequest(text, Hole(HOLE, HOLE), decoding=config))]
            for text in (DOCUMENT, other)
        )
        if finished(iter(first)).text != finished(iter(second)).text:
            return
    pytest.fail("what stands behind the hole changed nothing")


@pytest.mark.parametrize("document", ["", "x", "def f():\n    return ", DOCUMENT * 30])
def test_a_hole_may_be_anywhere_in_a_document_of_any_size(document: str, engine: Engine) -> None:
    for at in {0, len(document) // 2, len(document)}:
        asked = InfillRequest(document, Hole(at, at), decoding=DecodingConfig(max_tokens=400))
        done = finished(engine.infill(asked))
        assert 1 <= done.tokens <= 24 and done.finish.value == "eom"
        assert "```" not in done.text or "```" in document  # that frames the file in its answer


def test_the_same_request_has_the_same_text_alone_or_among_others(engine: Engine) -> None:
    asked = [request(seed=5), rewriting(seed=5), request(temperature=1.0, seed=7)]
    alone = [
        finished(engine.rewrite(one) if isinstance(one, RewriteRequest) else engine.infill(one))
        for one in asked
    ]
    ends: dict[int, Finished] = {}

    batch: Batch[int] = engine.batch()
    for key, one in enumerate(asked):
        batch.add(key, engine.steps(one, lambda: False))
    while len(batch):
        for key, told in batch.step():
            assert not isinstance(told, Exception), told
            if isinstance(told, Finished):
                ends[key] = told
    assert [ends[key].text for key in range(len(asked))] == [done.text for done in alone]
    assert engine.cache_entries == 0 and engine.contexts.open == 0


def test_several_holes_are_filled_together(engine: Engine) -> None:
    also = (Hole(len(DOCUMENT), len(DOCUMENT)),)
    asked = InfillRequest(
        DOCUMENT, Hole(HOLE, HOLE), also=also, decoding=DecodingConfig(max_tokens=8)
    )
    *_, done = engine.infill(asked)
    assert isinstance(done, Filled) and len(done.holes) == 2
    assert all(hole.tokens >= 1 for hole in done.holes)


def test_a_cancelled_request_leaves_nothing_behind(engine: Engine) -> None:
    for asked, ask in ((request(), engine.infill), (rewriting(), engine.rewrite)):
        expected = finished(ask(asked)).text  # type: ignore[operator]
        for after in (0, 1, 4):
            flags = map(after.__le__, range(100))
            with pytest.raises(Cancelled):
                list(ask(asked, flags.__next__))  # type: ignore[operator]
        assert finished(ask(asked)).text == expected  # type: ignore[operator]
    assert engine.contexts.open == 0


def test_a_word_cut_by_the_hole_is_healed(engine: Engine) -> None:
    """What the prompt gives up of `re` is what every draft begins with, and not shown."""
    document = "def area(width, height):\n    re\n"
    end = document.index("re\n") + 2
    asked = InfillRequest(document, Hole(end, end), decoding=DecodingConfig(max_tokens=12))
    done = finished(engine.infill(asked))
    point = engine.checkpoint
    prompt = framed(build_prompt(asked, point.tokenizer, point.drafting.layout), *point.frame)
    assert prompt.heal == "re"
    with engine.contexts.context(prompt, asked.decoding, lambda: False) as sampler:
        *drafts, last = sampler.run(prompt.tokens)
    assert len(drafts) > 1
    for draft in (*drafts, last):
        assert engine.tokenizer.decode(draft.tokens).startswith("re")
    assert done.text in engine.tokenizer.decode(last.tokens)


def test_a_hole_is_a_part_of_an_answer_in_a_conversation(engine: Engine) -> None:
    before, after = engine.checkpoint.frame
    names = engine.tokenizer._backend.id_to_token
    assert names(before[0]) == "<bos>"
    marks = [names(token) for token in before if engine.tokenizer.is_special(token)]
    turn, end = gemma_folder.TURN, gemma_folder.TURN_END
    assert marks == ["<bos>", turn, end, turn, end, turn]
    assert engine.tokenizer.decode(before).endswith("\nmodel\n```\n")
    assert engine.tokenizer.decode(after) == "\n```" and names(after[-1]) == end


@pytest.mark.parametrize(
    ("decoding", "says"),
    [
        ({"mode": Mode.AR}, "no mode ar"),
        ({"rule": Rule.SCHEDULE}, "settles masks"),
        ({"block_size": 4}, "canvases of 24"),
        ({"cache": Reuse.DUAL}, "for bidirectional checkpoints"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    decoding: dict[str, object], says: str, engine: Engine
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        list(engine.infill(request(**decoding)))


def test_more_context_than_the_model_has_is_refused(tmp_path: Path) -> None:
    folder = gemma_folder.write(tmp_path / "it", max_position_embeddings=64)
    made = Engine.load(str(folder), device="cpu", dtype="float32")
    with pytest.raises(InvalidRequest, match="context of 64|limit"):
        list(made.infill(request()))


def test_the_engine_finds_numbers_that_are_not_finite(folder: Path) -> None:
    made = Engine.load(str(folder), device="cpu", dtype="float32")
    made.check()
    model = made.checkpoint.model
    model._model.lm_head.weight.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(ModelCorrupt, match="not finite"):
        list(checked(made))


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_folder_is_a_typed_error(
    name: str, damage: str, folder: Path, tmp_path: Path
) -> None:
    whole = folder
    folder = tmp_path / "it"
    shutil.copytree(whole, folder)
    file = folder / name
    if damage == "missing":
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(BlockdiffError) as caught:
        Engine.load(str(folder), device="cpu", dtype="float32")
    kind = ModelNotFound if damage == "missing" else ModelCorrupt
    assert isinstance(caught.value, kind), caught.value
    assert str(folder) in caught.value.message


def test_other_uses_of_its_weights_are_refused(engine: Engine) -> None:
    with pytest.raises(ModelUnsupported, match="infills and rewrites alone"):
        _ = engine.checkpoint.transformer
    with pytest.raises(ModelUnsupported, match="from left to right"):
        with engine.behind([1, 2], DecodingConfig(mode=Mode.AR)):
            pass


TEXTS = ["", " a  b\n\n\tc", DOCUMENT, "naïve 😀 中", "<|turn>x<eos>", "<0x41>", "\r\n\x0c\u2028"]


@pytest.mark.parametrize("text", TEXTS)
def test_its_tokenizer_is_that_of_transformers(text: str, folder: Path) -> None:
    """But for special tokens written in a text, which stay text."""
    ours = Tokenizer.from_file(folder / "tokenizer.json", 400)
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    assert not any(ours.is_special(token) for token in ids)
    if "<" not in text:
        assert ids == gemma_folder.tokenizer().encode(text, add_special_tokens=False)


def test_white_space_is_text_though_it_is_listed_as_added(folder: Path, tmp_path: Path) -> None:
    """As the files of earlier Gemmas list it, together with tags that no text shall make."""
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    for text in ("\n\n", "▁▁", "<table>"):
        token = vocabulary.setdefault(text, len(vocabulary))
        added = dict(content["added_tokens"][0], id=token, content=text, special=False)
        content["added_tokens"].append(added)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    made = Tokenizer.from_file(tmp_path / "tokenizer.json", 400)
    ids = made.encode("a\n\n  <table>")
    assert made.decode(ids) == "a\n\n  <table>"
    assert vocabulary["\n\n"] in ids and vocabulary["▁▁"] in ids
    assert vocabulary["<table>"] not in ids
