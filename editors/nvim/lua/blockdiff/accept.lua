-- Puts the text of a draft into the buffer: all of it, or its next line or word.

local diff = require("blockdiff.diff")
local edit = require("blockdiff.edit")
local ui = require("blockdiff.ui")

local M = {}

---What is done next can be undone by itself, in insert mode, too.
function M.new_undo_step()
  vim.cmd("let &g:undolevels = &g:undolevels")
end

---@param buf integer
---@param range blockdiff.Range
---@param text string
local function replace(buf, range, text)
  local old = table.concat(vim.api.nvim_buf_get_text(buf, range[1], range[2], range[3], range[4], {}), "\n")
  local from, to, new = edit.smallest(old, text)
  local row, col = edit.advance(range[1], range[2], old:sub(1, from))
  local end_row, end_col = edit.advance(range[1], range[2], old:sub(1, to))
  vim.api.nvim_buf_set_text(buf, row, col, end_row, end_col, vim.split(new, "\n", { plain = true }))
end

---@param row integer
---@param col integer
local function put_cursor(row, col)
  vim.api.nvim_win_set_cursor(0, { row + 1, col })
end

---All holes of a session that is closed; the cursor goes behind the nearest.
---@param session blockdiff.Session
function M.all(session)
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local near = session.holes[session:at(row - 1, col)]
  local holes = vim.list_slice(session.holes)
  table.sort(holes, function(a, b)
    return a.range[1] > b.range[1] or (a.range[1] == b.range[1] and a.range[2] > b.range[2])
  end)
  local mark -- follows the end of the nearest one through what is done above it
  for _, hole in ipairs(holes) do
    replace(session.buf, hole.range, hole.text)
    if hole == near then
      local end_row, end_col = edit.advance(hole.range[1], hole.range[2], hole.text)
      mark = vim.api.nvim_buf_set_extmark(session.buf, ui.ns, end_row, end_col, {})
    end
  end
  put_cursor(unpack(vim.api.nvim_buf_get_extmark_by_id(session.buf, ui.ns, mark, {})))
  vim.api.nvim_buf_del_extmark(session.buf, ui.ns, mark)
end

---The first part of the nearest hole; one that is used up leaves the session.
---@param session blockdiff.Session
---@param unit "line"|"word"
function M.part(session, unit)
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local index = session:at(row - 1, col)
  local hole = session.holes[index]
  local head, rest = diff.head(hole.text, unit)
  local start_row, start_col = hole.range[1], hole.range[2]
  local end_row, end_col = edit.advance(start_row, start_col, head)
  session.own = hole
  if rest == "" then
    replace(session.buf, hole.range, head)
    table.remove(session.holes, index)
  else
    local lines = vim.split(head, "\n", { plain = true })
    vim.api.nvim_buf_set_text(session.buf, start_row, start_col, start_row, start_col, lines)
    local change = { start = { start_row, start_col }, old = { start_row, start_col }, new = { end_row, end_col } }
    local last_row, last_col = edit.moved(change, hole.range[3], hole.range[4])
    hole.range = { end_row, end_col, last_row, last_col }
    hole.text = rest
    hole.settled = diff.without_head(hole.settled, #head)
    hole.uncertain = diff.without_head(hole.uncertain, #head)
    hole.tallest = select(2, rest:gsub("\n", "")) + 1
  end
  session.own = nil
  put_cursor(end_row, end_col)
end

return M
