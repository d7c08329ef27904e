-- From a cursor, lines, a selection or a pattern to the holes that are meant.

local M = {}

---@param buf integer
---@param row integer
---@return string
local function line_at(buf, row)
  return vim.api.nvim_buf_get_lines(buf, row, row + 1, false)[1] or ""
end

---Where text would be typed. In normal mode that is before the character under the cursor, and
---behind the last one of a line.
---@return blockdiff.Range
function M.cursor()
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local line = line_at(0, row - 1)
  local inserting = vim.api.nvim_get_mode().mode:sub(1, 1) == "i"
  if not inserting and col < #line and col + vim.str_utf_end(line, col + 1) + 1 >= #line then
    col = #line
  end
  return { row - 1, col, row - 1, col }
end

---The content of lines: the indentation of the first and the ending of the last stay.
---@param first integer 1-based
---@param last integer
---@return blockdiff.Range
function M.lines(first, last)
  local indent = #line_at(0, first - 1):match("^%s*")
  return { first - 1, indent, last - 1, #line_at(0, last - 1) }
end

---A selection; one of the block kind is a hole in each of its lines.
---@param mode string "v", "V" or CTRL-V
---@param from integer[] as `getpos()` has it
---@param to integer[]
---@return blockdiff.Range[]
function M.selection(mode, from, to)
  if mode == "V" then
    return { M.lines(math.min(from[2], to[2]), math.max(from[2], to[2])) }
  end
  local exclusive = vim.o.selection == "exclusive"
  local holes = {}
  for _, part in ipairs(vim.fn.getregionpos(from, to, { type = mode, exclusive = exclusive })) do
    local row, start, stop = part[1][2] - 1, part[1][3], part[2][3]
    local line = line_at(0, row)
    if start > 0 and start <= #line then
      stop = math.min(stop + vim.str_utf_end(line, math.min(stop, #line)), #line)
      holes[#holes + 1] = { row, start - 1, row, stop }
    elseif mode == "v" then
      holes[#holes + 1] = { row, #line, row, #line }
    end
  end
  if mode == "v" and #holes > 1 then
    holes = { { holes[1][1], holes[1][2], holes[#holes][3], holes[#holes][4] } }
  end
  return holes
end

---Every match of a pattern in some lines.
---@param pattern string as for |/|
---@param first integer 1-based
---@param last integer
---@return blockdiff.Range[]
function M.matches(pattern, first, last)
  local holes = {}
  for _, match in ipairs(vim.fn.matchbufline(vim.api.nvim_get_current_buf(), pattern, first, last)) do
    local row = match.lnum - 1
    holes[#holes + 1] = { row, match.byteidx, row, match.byteidx + #match.text }
  end
  return holes
end

return M
