"""Makes `tokenizer_table.json`: what llama.cpp says the ids of hard strings are.

Run from the repository with the default model downloaded and the wheel `xllamacpp` installed:

    python tests/parity/make_tokenizer_table.py

llama.cpp does not normalize, the published Qwen2 tokenizer does (NFC), so each text is normalized
before llama.cpp sees it. The file is memory-mapped and no token is evaluated.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import httpx

TABLE = Path(__file__).with_name("tokenizer_table.json")

HARD_STRINGS = [
    # nothing, spaces, tabs, line endings
    "", " ", "  ", "   ", "        ", "\t", "\t\t\t", " \t \t", "\n", "\n\n", "\n\n\n", "\r\n",
    "\r\n\r\n", "\r", "\r\r\n", "a\r\nb", "a \r\n  b", "\n\t\n\t", "x\n\n    y", "x   \n   y",
    "if x:\n\treturn\t1\n", "\tif x:\r\n\t\tpass\r\n", "a" + " " * 33 + "b", "a" + " " * 80,
    "\n" * 20, " \n" * 9, "trailing  ", "  leading", "a  b   c    d",
    # digits and numbers
    "0", "00", "1234567890", "3.14159e-10", "0x7fFF_ffff", "1_000_000", "v1.2.3-rc4", "a1b2c3",
    "٣٤٥", "½¾", "²³", "Ⅷ", "１２３", "x[0][1]", " 42", "  42", "\t42", "12 345,67",
    # contractions
    "don't I'LL we've you'RE it's 'tis 'sure '", "x='s'", "d['re']",
    # code
    "def f(self, *args: int, **kw) -> None:\n    return self.__dict__['a']",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }", "fn main() { println!(\"{:?}\", x); }",
    "const f = async ({a, ...b}) => `${a}\n${b}`;", "<div class=\"x\">&nbsp;</div>",
    "a!=b==c<=d>=e&&f||g->h::i...j", "////", "/* **/ // ###", "#!/usr/bin/env python3\n",
    "printf(\"%d\\n\", x);", "\\n\\t\\u0041", "@decorator\n@other", "lambda: (yield)", "_", "__",
    "___init___", "camelCaseHTTPRequest", "snake_case_name", "SCREAMING_CASE", "\"\"\"doc\"\"\"",
    "x = {\n    'a': 1,\n\n    'b': 2,\n}\n", "    \n    pass", "else:\n\n\n        pass\n",
    # letters beyond ASCII, CJK, right to left
    "naïve café Straße", "Привет, мир", "你好，世界", "こんにちは世界", "안녕하세요",
    "日本語のコード = 1",
    "مرحبا بالعالم", "שָׁלוֹם", "नमस्ते", "ไทย", "中文 中文", "变量１ = 2", "ﬁle ﬂow", "ꙮ", "𝒳𝓎 = 𝟙",
    "𠜎𠜱",
    # combining marks: normalized to one character where there is one
    "e\u0301", "cafe\u0301s", "A\u030a", "n\u0303o", "\u1100\u1161\u11a8", "a\u0301\u0327",
    "\u0301", "\u0301x", "q\u0301", "\u212b \u2126 \u1e9b\u0323", "ก็", "x\u20d7 = 1",
    # emoji, joiners, flags, skin tones, variation selectors
    "😀", "😀😀😀", "a😀b", " 😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "👍🏽", "❤️", "☃", "1️⃣",
    "# 🚀 ship it\n",
    "\u200d", "a\u200db", "\u200b\u200b", "\ufeffimport os", "\ufe0f",
    # separators that are not line endings to everyone
    "a\fb", "\f\n", "\x0b", "a\u2028b", "\u2028\u2029", "a\x85b", "a\xa0b", "\xa0\xa0", "\u3000x",
    "\u2003y", "a\u1680b",
    # control characters and the ends of the code space
    "\x00", "a\x00b", "\x01\x02\x1f", "\x7f", "\x1b[31mred\x1b[0m", "\ufffd", "\uffff",
    "\U0010ffff", "\ue000",
    # special tokens written as text
    "<|fim_prefix|>", "<|fim_middle|>", "a<|fim_suffix|>b", "<|endoftext|>", "<|im_start|>user\n",
    "<|im_end|>", "<|repo_name|>x<|file_sep|>y", "<|fim_pad|>",
    "[PAD151665]", "<|", "|>", "<|fim_", "<|fim_middle|><|fim_middle|>", "<s></s><unk>",
    # long
    "ab" * 200, "=" * 100, "-" * 79 + "\n", "aAbBcC" * 30, "(" * 40 + ")" * 40, "....." * 13,
]  # fmt: skip


def main() -> None:
    import xllamacpp

    from blockdiff.weights.catalog import DEFAULT_MODEL
    from blockdiff.weights.store import resolve

    params = xllamacpp.CommonParams()
    params.model.path = str(resolve(DEFAULT_MODEL).base)
    params.warmup = False
    params.no_extra_bufts = True
    params.n_ctx = 256
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    rows = []
    for text in HARD_STRINGS:
        body = {
            "content": unicodedata.normalize("NFC", text),
            "add_special": False,
            "parse_special": False,
        }
        answer = httpx.post(f"{server.listening_address}/tokenize", json=body, timeout=60)
        answer.raise_for_status()
        rows.append({"text": text, "ids": answer.json()["tokens"]})
    lines = ",\n".join(json.dumps(row) for row in rows)
    TABLE.write_text(f"[\n{lines}\n]\n", encoding="ascii")
    print(f"{len(rows)} strings, {sum(len(r['ids']) for r in rows)} ids", file=sys.stderr)


if __name__ == "__main__":
    main()
