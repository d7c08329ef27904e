-- What a user can set: one annotated table. What it does not know is reported, never ignored.

---@class blockdiff.Config
local defaults = {
  ---Start the language server with every buffer of `filetypes`; otherwise with the first command.
  autostart = true,
  ---The server's command. nil: the Python that installed this plugin, `blockdiff-lsp` on PATH, or the
  ---`.venv` of the checkout that it lies in.
  cmd = nil, ---@type string[]?
  ---Where the server starts by itself; commands work in every buffer.
  filetypes = {
    "c", "cpp", "go", "java", "javascript", "javascriptreact", "lua", "python", "rust", "typescript",
    "typescriptreact",
  }, ---@type string[]
  ---Seconds a command waits for a server that does not answer.
  patience = 10,
  ---Say behind a draft what the keys do, and what the engine is doing.
  hints = true,

  ghost = {
    ---Complete while typing. Switch one buffer off with `vim.b.blockdiff_ghost = false`.
    enabled = true,
    ---Milliseconds without a key before a completion is asked for.
    debounce = 150,
    ---Use `vim.lsp.inline_completion` where Neovim has it (0.12).
    native = true,
  },

  ---Default mappings; `keys = false` makes none, a single one set to false leaves that one out.
  ---The first two are always there, the others only in a buffer that shows a draft or ghost text,
  ---and what they hide comes back afterwards.
  ---@class blockdiff.Keys
  keys = {
    infill = "<leader>bi", ---@type string|false normal and visual mode
    rewrite = "<leader>br", ---@type string|false normal and visual mode; asks for an instruction
    accept = "<Tab>", ---@type string|false normal and insert mode
    accept_line = "<M-l>", ---@type string|false normal and insert mode
    accept_word = "<M-w>", ---@type string|false normal and insert mode
    next = "<M-]>", ---@type string|false normal and insert mode
    multiline = "<M-m>", ---@type string|false insert mode: one line or several
    reject = "<Esc>", ---@type string|false normal mode
    dismiss = "<C-]>", ---@type string|false insert mode: reject without leaving it
  }, ---@type blockdiff.Keys|false

  ---Settings of the server, as `docs/lsp.md` has them.
  server = {
    engine = {
      model = "", -- name or path; empty: the default one
      drafter = "", -- name or path of a drafter made for the model; empty: none
      device = "auto", -- auto, cpu, cuda, cuda:1 or mps
      dtype = "auto", -- auto, int8, bfloat16, float16 or float32
      idleMinutes = 30, -- stop the engine after so long without a request; 0: never
      diskCacheMib = 2048, -- of encoded context, kept on disk for later engines; 0: none
      download = true, -- download the model on first use
      backend = "local", -- local, openai, llamacpp, ollama, mistral or inception
      fim = "auto", -- backends openai and ollama: how the model knows a hole marked
      url = "", -- an engine on another machine, or the backend
      token = "", -- of the engine at `url`
      caFile = "", -- certificates to trust at `url`
      allowPlainHttp = false, -- let code and token travel unencrypted
    },
    decoding = {
      mode = "verify", ---@type "ar"|"verify"|"diffusion"
      maxTokens = 256,
      blockSize = 0, -- 0: as the model was trained
      temperature = 0,
      topP = 1,
      seed = 0,
    },
    inline = {
      automatic = true, -- complete while typing; `ghost.enabled` is the switch of this editor
      maxTokens = 64,
      candidates = 2, -- different ones, when asked on command
      multiline = true, -- complete several lines at the end of a line
      disabledLanguages = {}, ---@type string[] where nothing is completed while typing
      disabledGlobs = {}, ---@type string[] files of the same kind, such as "*.md" or "docs/**"
      inComments = true, -- complete in comments, too
      inStrings = true, -- and in strings
      delayMs = 0, -- without a key, besides `ghost.debounce`
    },
    context = {
      latencySeconds = 1.5, -- send as much context as is encoded in so long
      mostTokens = 4096,
      snippets = true, -- related parts of other open files, and recent edits
      workspace = true, -- index the open folder, and show the signatures that a place needs
      workspaceShare = 0.25, -- of the context, for such signatures and recent edits
      warmAhead = true, -- encode the context while the cursor rests
    },
    drafts = { personalTables = true }, -- count the open folder's n-grams: they draft its names
    rewrite = { strength = 0.5 }, -- share of the text that may change without an instruction
  },
}

local M = {
  is_set = false, -- whether setup() was called
  defaults = defaults,
  problems = {}, ---@type string[] what is wrong with the user's table
}

local options = vim.deepcopy(defaults)
local optional = { cmd = "table" }
local may_be_false = { ["keys"] = true }
local lists = { filetypes = true, cmd = true, disabledLanguages = true, disabledGlobs = true }

---@param known any
---@param given any
---@param path string
---@return any
local function merged(known, given, path)
  local name = path == "" and "opts" or path
  local key = path:match("[^.]+$") or ""
  local off = given == false and (may_be_false[path] or path:match("^keys%."))
  if off then
    return false
  end
  local wanted = known == nil and optional[path] or type(known)
  if type(given) ~= wanted then
    M.problems[#M.problems + 1] = ("%s must be a %s, got a %s"):format(name, wanted, type(given))
    return vim.deepcopy(known)
  end
  if type(given) ~= "table" or lists[key] then
    return vim.deepcopy(given)
  end
  local result = vim.deepcopy(known)
  for k, item in pairs(given) do
    local place = path == "" and tostring(k) or path .. "." .. tostring(k)
    if known[k] == nil and not optional[place] then
      M.problems[#M.problems + 1] = ("unknown option %s"):format(place)
    else
      result[k] = merged(known[k], item, place)
    end
  end
  return result
end

---@param opts? table
function M.setup(opts)
  M.is_set = true
  M.problems = {}
  options = merged(defaults, opts or {}, "")
end

---@return blockdiff.Config
function M.get()
  return options
end

return M
