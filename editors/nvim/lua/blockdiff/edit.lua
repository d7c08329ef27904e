-- Ranges, and what edits do to them. Nothing here knows of a buffer or a window.

---@class blockdiff.Range 0-based rows, byte columns; the end is not part of it
---@field [1] integer row
---@field [2] integer column
---@field [3] integer row of the end
---@field [4] integer column of the end

---@class blockdiff.Change an edit: what reached from `start` to `old` reaches to `new` now
---@field start integer[] row, column
---@field old integer[]
---@field new integer[]

local M = {}

---@param a integer[]
---@param b integer[]
---@return boolean
local function before_or_at(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] <= b[2])
end

---An edit as `nvim_buf_attach` reports it: ends relative to the start.
---@return blockdiff.Change
function M.change(row, col, old_rows, old_cols, new_rows, new_cols)
  return {
    start = { row, col },
    old = { row + old_rows, old_rows == 0 and col + old_cols or old_cols },
    new = { row + new_rows, new_rows == 0 and col + new_cols or new_cols },
  }
end

---Whether an edit reaches into a range, or inserts at one of its edges. The server says the same.
---@param change blockdiff.Change
---@param range blockdiff.Range
---@return boolean
function M.touches(change, range)
  return before_or_at(change.start, { range[3], range[4] })
    and before_or_at({ range[1], range[2] }, change.old)
end

---Where a place is after an edit; one within what was replaced does not move.
---@param change blockdiff.Change
---@param row integer
---@param col integer
---@return integer row, integer col
function M.moved(change, row, col)
  if not before_or_at(change.old, { row, col }) then
    return row, col
  end
  if row == change.old[1] then
    col = col - change.old[2] + change.new[2]
  end
  return row - change.old[1] + change.new[1], col
end

---Where a range is after an edit; nil if the edit touches it.
---@param range blockdiff.Range
---@param change blockdiff.Change
---@return blockdiff.Range?
function M.move(range, change)
  if M.touches(change, range) then
    return nil
  end
  local row, col = M.moved(change, range[1], range[2])
  local end_row, end_col = M.moved(change, range[3], range[4])
  return { row, col, end_row, end_col }
end

---@param one blockdiff.Range
---@param other blockdiff.Range
---@return boolean
function M.same(one, other)
  return one[1] == other[1] and one[2] == other[2] and one[3] == other[3] and one[4] == other[4]
end

---Whether a byte continues a UTF-8 character.
---@param text string
---@param at integer 1-based
---@return boolean
local function continues(text, at)
  local byte = text:byte(at)
  return byte ~= nil and byte >= 0x80 and byte < 0xC0
end

---The smallest replacement that makes `old` read `new`, by common beginning and end. No character
---is cut in two.
---@param old string
---@param new string
---@return integer start bytes of `old` that stay before it
---@return integer stop bytes of `old` up to where it stays again
---@return string text
function M.smallest(old, new)
  local most = math.min(#old, #new)
  local head = 0
  while head < most and old:byte(head + 1) == new:byte(head + 1) do
    head = head + 1
  end
  while head > 0 and (continues(old, head + 1) or continues(new, head + 1)) do
    head = head - 1
  end
  local tail = 0
  while tail < most - head and old:byte(#old - tail) == new:byte(#new - tail) do
    tail = tail + 1
  end
  while tail > 0 and (continues(old, #old - tail + 1) or continues(new, #new - tail + 1)) do
    tail = tail - 1
  end
  return head, #old - tail, new:sub(head + 1, #new - tail)
end

---Row and column of the end of a text that starts at a place.
---@param row integer
---@param col integer
---@param text string lines separated by "\n"
---@return integer row, integer col
function M.advance(row, col, text)
  local last = 1
  for at in text:gmatch("()\n") do
    row, col, last = row + 1, 0, at + 1
  end
  return row, col + #text - last + 1
end

return M
