-- Paints drafts as extmarks. The buffer does not change.

local diff = require("blockdiff.diff")

local M = { ns = vim.api.nvim_create_namespace("blockdiff") }

---Highlight groups and what they are linked to unless a colour scheme says otherwise.
M.groups = {
  BlockdiffSettled = "DiffAdd", -- tokens of the draft that stay
  BlockdiffMasked = "Comment", -- tokens that are still guessed
  BlockdiffUncertain = "DiagnosticUnderlineWarn", -- on top of either: unlikely tokens
  BlockdiffReplaced = "DiffDelete", -- text of the buffer that would go
  BlockdiffGhost = "Comment", -- completion at the cursor
  BlockdiffHint = "Comment", -- what the keys do
}

local MOST_COLUMNS = 1000 -- of one painted line

function M.set_highlights()
  for name, standard in pairs(M.groups) do
    vim.api.nvim_set_hl(0, name, { link = standard, default = true })
  end
end

---@alias blockdiff.Painted {[1]: string, [2]: string|string[]}[]

---Text as cells: tabs as blanks, control characters as ^X.
---@param buf integer
---@param chunks blockdiff.Painted
---@param column integer cells before the first one
---@return blockdiff.Painted painted, integer column
local function cells(buf, chunks, column)
  local painted, tab = {}, vim.bo[buf].tabstop
  for _, chunk in ipairs(chunks) do
    local text = chunk[1]
    if text:find("[%z\1-\31\127]") then
      local parts = {}
      for plain, control in text:gmatch("([^%z\1-\31\127]*)([%z\1-\31\127]?)") do
        column = column + vim.fn.strdisplaywidth(plain)
        local shown = control
        if control == "\t" then
          shown = (" "):rep(tab - column % tab)
        elseif control ~= "" then
          shown = "^" .. string.char((control:byte() + 64) % 128)
        end
        column = column + #shown
        parts[#parts + 1] = plain .. shown
      end
      text = table.concat(parts)
    else
      column = column + vim.fn.strdisplaywidth(text)
    end
    if text ~= "" then
      painted[#painted + 1] = { text, chunk[2] }
    end
    if column > MOST_COLUMNS then
      painted[#painted + 1] = { "…", "BlockdiffHint" }
      break
    end
  end
  return painted, column
end

---@param text string
---@return string
local function clipped(text)
  return #text > MOST_COLUMNS and vim.fn.strpart(text, 0, MOST_COLUMNS, true) or text
end

---@param chunk blockdiff.Chunk
---@param ghost? boolean
---@return string|string[]
local function group(chunk, ghost)
  local base = ghost and "BlockdiffGhost" or chunk.settled and "BlockdiffSettled" or "BlockdiffMasked"
  return chunk.uncertain and not ghost and { base, "BlockdiffUncertain" } or base
end

---@param hole blockdiff.Hole
---@param ghost? boolean
---@return blockdiff.Painted[] lines
local function draft(hole, ghost)
  local lines = {}
  for i, line in ipairs(diff.lines(hole.text, hole.settled, hole.uncertain)) do
    lines[i] = vim.tbl_map(function(chunk)
      return { chunk[1], group(chunk, ghost) }
    end, line)
  end
  return lines
end

---@param buf integer
---@param hole blockdiff.Hole
---@return string head of the first line, string tail of the last one
local function around(buf, hole)
  local range = hole.range
  local first = vim.api.nvim_buf_get_lines(buf, range[1], range[1] + 1, false)[1] or ""
  local last = vim.api.nvim_buf_get_lines(buf, range[3], range[3] + 1, false)[1] or ""
  return clipped(first:sub(1, range[2])), clipped(last:sub(range[4] + 1))
end

---@param buf integer
---@param row integer
---@param col integer
---@param options vim.api.keyset.set_extmark
local function mark(buf, row, col, options)
  options.strict = false
  vim.api.nvim_buf_set_extmark(buf, M.ns, row, col, options)
end

---An insertion: what stands behind it in the line is painted where it would come to stand.
---@param buf integer
---@param hole blockdiff.Hole
---@param lines blockdiff.Painted[]
local function paint_insertion(buf, hole, lines)
  local row, col = hole.range[1], hole.range[2]
  local head, tail = around(buf, hole)
  local start = vim.fn.strdisplaywidth(head)
  local first, width = cells(buf, lines[1], start)
  if #lines == 1 or tail == "" then
    mark(buf, row, col, { virt_text = first, virt_text_pos = "inline" })
  else
    local covered = vim.fn.strdisplaywidth(tail, start) - (width - start)
    first[#first + 1] = { (" "):rep(math.max(covered, 0)), "Normal" }
    mark(buf, row, col, { virt_text = first, virt_text_pos = "overlay" })
    table.insert(lines[#lines], { tail, "Normal" })
  end
  local below = {}
  for i = 2, math.max(#lines, hole.tallest) do
    below[#below + 1] = lines[i] and #lines[i] > 0 and cells(buf, lines[i], 0) or { { " ", "Normal" } }
  end
  if #below > 0 then
    mark(buf, row, col, { virt_lines = below })
  end
end

---A replacement of several lines: the old ones stay, the new ones stand below them.
---@param buf integer
---@param hole blockdiff.Hole
---@param lines blockdiff.Painted[]
local function paint_replacement(buf, hole, lines)
  local range = hole.range
  local head, tail = around(buf, hole)
  mark(buf, range[1], range[2], { end_row = range[3], end_col = range[4], hl_group = "BlockdiffReplaced" })
  table.insert(lines[1], 1, { head, "Normal" })
  table.insert(lines[#lines], { tail, "Normal" })
  local below = {}
  for i = 1, math.max(#lines, hole.tallest) do
    below[i] = cells(buf, lines[i] or {}, 0)
    below[i] = #below[i] > 0 and below[i] or { { " ", "Normal" } }
  end
  mark(buf, range[3], range[4], { virt_lines = below })
end

---A finished rewrite: old lines that go, new lines below them, the rest once.
---@param buf integer
---@param hole blockdiff.Hole
---@param lines blockdiff.Painted[]
local function paint_hunks(buf, hole, lines)
  local range = hole.range
  local head, tail = around(buf, hole)
  local old = vim.api.nvim_buf_get_lines(buf, range[1], range[3] + 1, false)
  local new = vim.split(hole.text, "\n", { plain = true })
  new[1], new[#new] = head .. new[1], new[#new] .. tail
  table.insert(lines[1], 1, { head, "Normal" })
  table.insert(lines[#lines], { tail, "Normal" })
  for _, hunk in ipairs(diff.hunks(old, new)) do
    local from, count, first, added = unpack(hunk)
    local row = range[1] + from - 1
    for gone = row, row + count - 1 do
      local line = old[gone - range[1] + 1]
      mark(buf, gone, #line:match("^%s*"), { end_row = gone, end_col = #line, hl_group = "BlockdiffReplaced" })
    end
    local below = {}
    for i = first, first + added - 1 do
      local painted = cells(buf, lines[i], 0)
      below[#below + 1] = #painted > 0 and painted or { { " ", "Normal" } }
    end
    local under = count > 0 and row + count - 1 or row
    if #below > 0 then
      mark(buf, math.max(under, 0), 0, { virt_lines = below, virt_lines_above = under < 0 })
    end
  end
end

---@param buf integer
---@param hole blockdiff.Hole
---@param options {rewrite?: boolean, ghost?: boolean}
local function paint(buf, hole, options)
  local range = hole.range
  local lines = draft(hole, options.ghost)
  local is_empty = range[1] == range[3] and range[2] == range[4]
  if is_empty then
    paint_insertion(buf, hole, lines)
  elseif hole.text == "" and hole.tallest == 1 and range[1] < range[3] then
    mark(buf, range[1], range[2], { end_row = range[3], end_col = range[4], hl_group = "BlockdiffReplaced" })
  elseif options.rewrite and hole.done and range[1] < range[3] then
    paint_hunks(buf, hole, lines)
  elseif range[1] == range[3] and #lines == 1 and hole.tallest == 1 then
    mark(buf, range[1], range[2], { end_row = range[3], end_col = range[4], hl_group = "BlockdiffReplaced" })
    table.insert(lines[1], 1, { " ", "Normal" }) -- apart from what it replaces
    local old = vim.api.nvim_buf_get_text(buf, range[1], 0, range[3], range[4], {})[1]
    local start = vim.fn.strdisplaywidth(clipped(old))
    mark(buf, range[3], range[4], { virt_text = cells(buf, lines[1], start), virt_text_pos = "inline" })
  else
    paint_replacement(buf, hole, lines)
  end
end

---Blanks that keep the hint where it is while the line before it gets shorter.
---@param session blockdiff.Session
---@param row integer of the hint
---@return string
local function padding(session, row)
  local width = 0
  for _, hole in ipairs(session.holes) do
    if hole.range[1] == row then
      width = width + vim.fn.strdisplaywidth(clipped((hole.text:match("^[^\n]*"))))
    end
  end
  session.widest = session.state == "running" and math.max(session.widest, width) or width
  return (" "):rep(session.widest - width)
end

---Paint the drafts of a session anew, with a hint behind the first.
---@param session blockdiff.Session
---@param hint string
function M.render(session, hint)
  M.clear(session.buf)
  local first
  for _, hole in ipairs(session.holes) do
    paint(session.buf, hole, { rewrite = session.kind == "rewrite" })
    if not first or hole.range[1] < first then
      first = hole.range[1]
    end
  end
  if hint ~= "" and first then
    local text = "  " .. padding(session, first) .. hint
    mark(session.buf, first, 0, { virt_text = { { text, "BlockdiffHint" } }, virt_text_pos = "eol" })
  end
end

---Paint a completion at the cursor.
---@param buf integer
---@param range blockdiff.Range
---@param text string
function M.render_ghost(buf, range, text)
  M.clear(buf)
  local hole = { range = range, text = text, settled = {}, uncertain = {}, step = 0, done = true, tallest = 1 }
  paint(buf, hole, { ghost = true })
end

---@param buf integer
function M.clear(buf)
  if vim.api.nvim_buf_is_valid(buf) then
    vim.api.nvim_buf_clear_namespace(buf, M.ns, 0, -1)
  end
end

return M
