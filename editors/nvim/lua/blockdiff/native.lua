-- Neovim's own completions at the cursor (`vim.lsp.inline_completion`, 0.12), and the plugin's keys
-- for them.

local accept = require("blockdiff.accept")
local config = require("blockdiff.config")
local diff = require("blockdiff.diff")
local keys = require("blockdiff.keys")

local M = {}

local METHOD = "textDocument/inlineCompletion"
local ns = vim.api.nvim_create_namespace("nvim.lsp.inline_completion") -- that of Neovim

---Whether they are used in place of the plugin's own.
---@return boolean
function M.is_used()
  return config.get().ghost.native and vim.lsp.inline_completion ~= nil
end

---@param buf integer
---@return boolean
function M.is_shown(buf)
  return #vim.api.nvim_buf_get_extmarks(buf, ns, 0, -1, { limit = 1 }) > 0
end

---Switch them on or off in a buffer. Off takes away what is shown; on asks with the next key.
---@param buf integer
---@param on boolean
function M.enable(buf, on)
  if M.is_used() and vim.api.nvim_buf_is_loaded(buf) then
    vim.lsp.inline_completion.enable(on, { bufnr = buf })
  end
end

---The keys are there for as long as something is shown; nothing tells when, so look after each event
---that may change it.
---@param buf integer
local function look(buf)
  vim.schedule(function()
    if not vim.api.nvim_buf_is_loaded(buf) or require("blockdiff").session(buf) then
      return
    end
    if M.is_shown(buf) then
      keys.show(buf)
    elseif not require("blockdiff.ghost").is_shown(buf) then
      keys.hide(buf)
    end
  end)
end

---@param buf integer
---@param is_wanted fun(buf: integer): boolean
function M.attach(buf, is_wanted)
  local group = vim.api.nvim_create_augroup("blockdiff.native." .. buf, { clear = true })
  M.enable(buf, is_wanted(buf))
  vim.api.nvim_create_autocmd("InsertEnter", {
    group = group,
    buffer = buf,
    callback = function()
      M.enable(buf, is_wanted(buf) and not require("blockdiff").session(buf))
    end,
  })
  vim.api.nvim_create_autocmd({ "CursorMovedI", "TextChangedI", "TextChangedP", "InsertLeave" }, {
    group = group,
    buffer = buf,
    callback = function()
      look(buf)
    end,
  })
  vim.api.nvim_create_autocmd("LspRequest", {
    group = group,
    buffer = buf,
    callback = function(event)
      local request = event.data.request
      if request.method == METHOD and request.type == "complete" then
        look(buf)
      end
    end,
  })
end

---The text that stands in the range of an item: what was typed of it.
---@param buf integer
---@param range table a `vim.Range`
---@return string
local function typed(buf, range)
  local row, col, end_row, end_col = range:to_extmark()
  return table.concat(vim.api.nvim_buf_get_text(buf, row, col, end_row, end_col, {}), "\n")
end

---Insert what is shown, or its first part.
---@param buf integer
---@param unit "all"|"line"|"word"
---@return boolean
function M.accept(buf, unit)
  if not M.is_used() or not M.is_shown(buf) then
    return false
  end
  return vim.lsp.inline_completion.get({
    bufnr = buf,
    on_accept = function(item)
      local text = diff.normalize(item.insert_text)
      local begun = item.range and typed(buf, item.range) or ""
      if text:sub(1, #begun) == begun then
        text = begun .. diff.head(text:sub(#begun + 1), unit)
      end
      item.insert_text = text
      accept.new_undo_step()
      vim.schedule(accept.new_undo_step)
      return item
    end,
  })
end

return M
