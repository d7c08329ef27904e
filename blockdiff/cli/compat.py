"""`blockdiff compat`: the settings by which clients of other servers find the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from blockdiff.client.endpoint import COMPAT_ADDRESS, COMPAT_TOKEN, Runtime
from blockdiff.errors import InvalidRequest
from blockdiff.service.listen import host_and_port
from blockdiff.weights.catalog import DEFAULT_MODEL

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@dataclass(frozen=True, slots=True)
class Client:
    """A program that can be told to ask our engine.

    Attributes:
        place: where its settings go.
        language: of the settings, as a fence names it.
        settings: with `URL`, `TOKEN` and `MODEL` where those belong.
        notes: what else there is to know.
    """

    place: str
    language: str
    settings: str
    notes: str = ""


CLIENTS = {
    "llama.vim": Client(
        "vimrc, before the plugin is loaded",
        "vim",
        """\
let g:llama_config = {
  \\ 'endpoint_fim': 'URL/infill',
  \\ 'endpoint_inst': 'URL/v1/chat/completions',
  \\ 'api_key': 'TOKEN',
  \\ }
""",
        "Completions, warming and instructions (`:LlamaInstruct`). The first line comes whole; a "
        "longer answer ends after the 250 ms that llama.vim gives it, at the end of a line.",
    ),
    "llama.vscode": Client(
        "settings.json",
        "json",
        """\
{
  "llama-vscode.endpoint": "URL",
  "llama-vscode.api_key": "TOKEN"
}
""",
        "Completions and warming. Its agent and its chat need a model that chats: this one does "
        "not.",
    ),
    "minuet": Client(
        "init.lua",
        "lua",
        """\
require('minuet').setup({
  provider = 'openai_fim_compatible',
  n_completions = 1,
  provider_options = {
    openai_fim_compatible = {
      name = 'blockdiff',
      model = 'MODEL',
      end_point = 'URL/v1/completions',
      api_key = function()
        return 'TOKEN'
      end,
      optional = { max_tokens = 128 },
    },
  },
})
""",
        "`provider = 'codestral'` works as well, with `end_point = 'URL/v1/fim/completions'`. "
        "With `n_completions` above 1 it sends as many equal requests at once, which get one "
        "answer. What came within its 3 seconds (`request_timeout`) is kept.",
    ),
    "Continue": Client(
        "config.yaml",
        "yaml",
        """\
models:
  - name: blockdiff
    provider: mistral
    model: MODEL
    apiBase: URL/v1/
    apiKey: TOKEN
    roles:
      - autocomplete
    autocompleteOptions:
      modelTimeout: 5000
""",
        "Without `modelTimeout` a CPU is too slow for it: it stops after a line that took more "
        "than 150 ms. `provider: openai` with the same `apiBase`, `llama.cpp` with `apiBase: URL/` "
        "and `ollama` with `apiBase: URL` work as well, if `qwen2.5-coder` stays in the name of "
        "the model: Continue chooses its prompt by that.",
    ),
    "Tabby": Client(
        "~/.tabby/config.toml of its server",
        "toml",
        """\
[model.completion.http]
kind = "openai/completion"
model_name = "MODEL"
api_endpoint = "URL/v1"
api_key = "TOKEN"

[completion]
max_input_length = 8192
""",
        "Without `max_input_length` it sends the last 1,536 bytes. `mistral/completion` with "
        '`api_endpoint = "URL"` works as well; `llama.cpp/completion` there, too, and '
        "`vllm/completion` as above, both with `prompt_template = "
        '"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"`. Tabby ends a text at a '
        "blank line only where a piece of it ends there, and ours are whole lines: what it shows "
        "is longer than with other servers, up to 64 tokens (`max_decoding_tokens`).",
    ),
    "Zed": Client(
        "settings.json",
        "jsonc",
        """\
// The key goes into Zed's settings for edit predictions, or into its environment:
// ZED_OPEN_AI_COMPATIBLE_EDIT_PREDICTION_API_KEY=TOKEN
{
  "edit_predictions": {
    "provider": "open_ai_compatible_api",
    "open_ai_compatible_api": {
      "api_url": "URL/v1/completions",
      "model": "MODEL",
      "prompt_format": "qwen",
      "max_output_tokens": 128
    }
  }
}
""",
        "It sends some 512 tokens around the cursor, and shows what comes when all of it is there. "
        "Its provider `ollama` sends no token: with it, only `--no-token` does.",
    ),
    "openai (Python)": Client(
        "a program",
        "python",
        """\
from openai import OpenAI

client = OpenAI(base_url="URL/v1", api_key="TOKEN")
answer = client.completions.create(
    model="MODEL", prompt="def area(w, h):\\n    return ", suffix="\\n", max_tokens=32
)
print(answer.choices[0].text)
""",
        "`chat.completions` rewrites: the last message has the code between ``` fences and says "
        "what to change. `n`, `echo` and `logprobs` are refused.",
    ),
    "mistralai (Python)": Client(
        "a program",
        "python",
        """\
from mistralai.client import Mistral

client = Mistral(server_url="URL", api_key="TOKEN")
answer = client.fim.complete(model="MODEL", prompt="def area(w, h):\\n    return ", suffix="\\n")
print(answer.choices[0].message.content)
""",
    ),
    "curl": Client(
        "a terminal",
        "text",
        """\
curl -N URL/infill -H 'Authorization: Bearer TOKEN' -H 'Content-Type: application/json' \\
  -d '{"input_prefix": "def area(w, h):\\n", "prompt": "    return ", "input_suffix": "\\n"}'
""",
    ),
}


def settings_of(client: Client, url: str, token: str) -> str:
    """What to paste."""
    text = client.settings
    for name, value in (("URL", url), ("TOKEN", token), ("MODEL", DEFAULT_MODEL)):
        text = text.replace(name, value)
    return text


@app.command()
def compat(
    address: Annotated[
        str,
        typer.Argument(
            metavar="[HOST:PORT]",
            help=f"of `serve --compat`; default: where it runs, else {COMPAT_ADDRESS}",
        ),
    ] = "",
    client: Annotated[str, typer.Option(help="only the settings of this client")] = "",
) -> None:
    """Print the settings by which other clients find the engine, with its token.

    `blockdiff serve --compat` listens for them. Keep the token to yourself: it is the same at every
    start. To have another one, remove the file it is in.
    """
    chosen = {name: c for name, c in CLIENTS.items() if name.lower().startswith(client.lower())}
    if not chosen:
        raise InvalidRequest(f"no client is called {client!r}", f"one of {', '.join(CLIENTS)}")
    if address:
        host_and_port(address)
    runtime = Runtime.default()
    runtime.prepare()
    announced = runtime.announced()
    running = announced.compat if announced else ""
    url = f"http://{address}" if address else running or f"http://{COMPAT_ADDRESS}"
    token = runtime.make_token(COMPAT_TOKEN)
    for name, one in chosen.items():
        print(f"{name}: {one.place}\n\n{settings_of(one, url, token)}")
    print(f"token    {runtime.folder / COMPAT_TOKEN}")
    if not running:
        print("start    blockdiff serve --compat" + (f" {address}" if address else ""))
