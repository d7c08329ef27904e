-- Completions at the cursor while typing: Neovim's own where it has them, else these.

local accept = require("blockdiff.accept")
local client = require("blockdiff.client")
local config = require("blockdiff.config")
local diff = require("blockdiff.diff")
local edit = require("blockdiff.edit")
local keys = require("blockdiff.keys")
local native = require("blockdiff.native")
local ui = require("blockdiff.ui")

---@class blockdiff.Ghost what is shown in a buffer
---@field texts string[] candidates
---@field index integer
---@field row integer where they start
---@field col integer
---@field tail string what stood behind the cursor in its line

local M = {}

local METHOD = "textDocument/inlineCompletion"
local INVOKED, AUTOMATIC = 1, 2

---@type table<integer, blockdiff.Ghost>
local shown = {}
---@type table<integer, {client: vim.lsp.Client, id: integer}>
local asked = {}
local timer ---@type uv.uv_timer_t?

---@param buf integer
---@return boolean
local function is_wanted(buf)
  return config.get().ghost.enabled and vim.b[buf].blockdiff_ghost ~= false
end

---@return boolean
local function is_typing()
  return vim.api.nvim_get_mode().mode:sub(1, 1) == "i"
end

---Nothing of Neovim's own stands beside a draft or a completion of ours.
---@param buf integer
---@param is_ours boolean
function M.give_way(buf, is_ours)
  native.enable(buf, not is_ours and is_wanted(buf))
end

---Take the ghost away and forget what was asked.
---@param buf integer
function M.clear(buf)
  if timer then
    timer:stop()
  end
  local request = asked[buf]
  asked[buf] = nil
  if request and not request.client:is_stopped() then
    request.client:cancel_request(request.id)
  end
  if shown[buf] then
    ui.clear(buf)
    keys.hide(buf)
  end
  if shown[buf] or request then
    shown[buf] = nil
    M.give_way(buf, false)
  end
end

---Take away what is shown at the cursor, whoever shows it.
---@param buf integer
function M.dismiss(buf)
  M.clear(buf)
  if native.is_used() and native.is_shown(buf) then
    native.enable(buf, false)
    native.enable(buf, is_wanted(buf))
    keys.hide(buf)
  end
end

---What is left of a candidate behind what was typed of it; nil if something else was typed.
---@param buf integer
---@param ghost blockdiff.Ghost
---@return string? rest, integer? row, integer? col
local function remaining(buf, ghost)
  if vim.api.nvim_get_current_buf() ~= buf then
    return nil
  end
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  row = row - 1
  if row < ghost.row or (row == ghost.row and col < ghost.col) then
    return nil
  end
  if ghost.row >= vim.api.nvim_buf_line_count(buf) then
    return nil
  end
  local first = vim.api.nvim_buf_get_lines(buf, ghost.row, ghost.row + 1, false)[1]
  local line = vim.api.nvim_get_current_line()
  if #first < ghost.col or line:sub(col + 1) ~= ghost.tail then
    return nil
  end
  local typed = table.concat(vim.api.nvim_buf_get_text(buf, ghost.row, ghost.col, row, col, {}), "\n")
  local text = ghost.texts[ghost.index]
  if text:sub(1, #typed) ~= typed or #text == #typed then
    return nil
  end
  return text:sub(#typed + 1), row, col
end

---@param buf integer
---@return boolean
local function paint(buf)
  local ghost = shown[buf]
  local rest, row, col = remaining(buf, ghost)
  if not rest then
    return false
  end
  ui.render_ghost(buf, { row, col, row, col }, rest)
  keys.show(buf)
  return true
end

---@param buf integer
---@param items table[]
---@param encoding string
local function take(buf, items, encoding)
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local texts, start = {}, nil
  for _, item in ipairs(items) do
    local from = item.range and item.range.start or nil
    local line = from and vim.api.nvim_buf_get_lines(buf, from.line, from.line + 1, false)[1]
    if line then
      local place = { from.line, vim.str_byteindex(line, encoding, from.character, false) }
      start = start or place
      if vim.deep_equal(place, start) then
        texts[#texts + 1] = (diff.normalize(item.insertText))
      end
    end
  end
  if #texts == 0 then
    return
  end
  local tail = vim.api.nvim_get_current_line():sub(col + 1)
  shown[buf] = { texts = texts, index = 1, row = start[1], col = start[2], tail = tail }
  if not paint(buf) then
    shown[buf] = nil
  end
end

---Ask for completions where the cursor is.
---@param buf integer
---@param kind integer
---@param done? fun(message?: string) for a request on command
local function ask(buf, kind, done)
  local server = client.attached(buf)
  if not server or not server.initialized then
    return
  end
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local line, version = vim.api.nvim_get_current_line(), vim.lsp.util.buf_versions[buf]
  local params = {
    textDocument = { uri = vim.uri_from_bufnr(buf) },
    position = { line = row - 1, character = vim.str_utfindex(line, server.offset_encoding, col, false) },
    context = { triggerKind = kind },
  }
  local request = { client = server }
  local sent, id = server:request(METHOD, params, function(err, result)
    if asked[buf] ~= request then
      return
    end
    asked[buf] = nil
    local message = err and client.explain(err)
    if message then
      client.log(message)
    end
    local here = vim.api.nvim_get_current_buf() == buf and vim.deep_equal({ row, col }, vim.api.nvim_win_get_cursor(0))
    if here and is_typing() and version == vim.lsp.util.buf_versions[buf] and result then
      take(buf, result.items or result, server.offset_encoding)
    end
    if not shown[buf] then
      M.give_way(buf, false)
    end
    if done then
      done(message or not shown[buf] and "no completion here" or nil)
    end
  end, buf)
  if sent then
    request.id = id
    asked[buf] = request
  end
end

---The text or the cursor changed: what is shown may still hold, otherwise ask again after a pause.
---@param buf integer
local function changed(buf)
  if shown[buf] and paint(buf) then
    return
  end
  M.clear(buf)
  if native.is_used() or not is_wanted(buf) or require("blockdiff").session(buf) then
    return
  end
  timer = timer or assert(vim.uv.new_timer())
  timer:start(config.get().ghost.debounce, 0, vim.schedule_wrap(function()
    local free = vim.api.nvim_get_current_buf() == buf and not require("blockdiff").session(buf)
    if free and is_typing() and vim.fn.pumvisible() == 0 and vim.bo[buf].modifiable then
      ask(buf, AUTOMATIC)
    end
  end))
end

---@param buf integer
function M.attach(buf)
  if native.is_used() then
    native.attach(buf, is_wanted)
  end
  local group = vim.api.nvim_create_augroup("blockdiff.ghost." .. buf, { clear = true })
  vim.api.nvim_create_autocmd({ "TextChangedI", "CursorMovedI" }, {
    group = group,
    buffer = buf,
    callback = function()
      changed(buf)
    end,
  })
  vim.api.nvim_create_autocmd({ "InsertLeave", "BufLeave", "LspDetach" }, {
    group = group,
    buffer = buf,
    callback = function()
      M.clear(buf)
    end,
  })
end

---@param buf integer
---@return boolean
function M.is_shown(buf)
  return shown[buf] ~= nil
end

---Insert what is shown, or its first part.
---@param buf integer
---@param unit "all"|"line"|"word"
---@return boolean
function M.accept(buf, unit)
  local ghost = shown[buf]
  local rest, row, col = nil, nil, nil
  if ghost then
    rest, row, col = remaining(buf, ghost)
  end
  if not rest or not row or not col then
    return native.accept(buf, unit)
  end
  local head, left = diff.head(rest, unit)
  if left == "" then
    M.clear(buf)
  end
  accept.new_undo_step()
  vim.api.nvim_buf_set_text(buf, row, col, row, col, vim.split(head, "\n", { plain = true }))
  local end_row, end_col = edit.advance(row, col, head)
  vim.api.nvim_win_set_cursor(0, { end_row + 1, end_col })
  accept.new_undo_step()
  return true
end

---@param buf integer
---@param kind integer
---@param done fun(message?: string)
local function replace(buf, kind, done)
  M.clear(buf)
  M.give_way(buf, true)
  ask(buf, kind, done)
  if not asked[buf] then
    M.give_way(buf, false)
  end
end

---The next candidate; more of them are asked for where there is only one.
---@param buf integer
---@param done fun(message?: string)
function M.next(buf, done)
  local ghost = shown[buf]
  if ghost and #ghost.texts > 1 then
    ghost.index = ghost.index % #ghost.texts + 1
    if not paint(buf) then
      M.clear(buf)
    end
    return
  end
  replace(buf, INVOKED, done)
end

---Another completion in the place of what is shown, as other settings would have it.
---@param buf integer
---@param done fun(message?: string)
function M.again(buf, done)
  if is_typing() then
    replace(buf, AUTOMATIC, done)
  end
end

return M
