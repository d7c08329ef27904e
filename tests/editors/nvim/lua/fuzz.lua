-- Random edits of a real buffer against drafts. A draft that lives on must stand at the very text it
-- was asked for, and taking it must give what replacing that text gives.

local edit = require("blockdiff.edit")
local sessions = require("blockdiff.session")

local CASES = tonumber(vim.env.BLOCKDIFF_FUZZ_CASES) or 10000
local PIECES = { "a", "bc", "\n", "\n\n", "é", "🦊", "\t", "def f():\n    ", "", "x\ny\nz" }

local state = tonumber(vim.env.BLOCKDIFF_FUZZ_SEED) or 20261121
local function random(n) -- 0..n-1, the same on every machine
  state = (state * 16807) % 2147483647
  return state % n
end

local function text_of(pieces)
  local text = {}
  for i = 1, random(pieces) do
    text[i] = PIECES[random(#PIECES) + 1]
  end
  return table.concat(text)
end

---A place at the start of a character.
local function place(buf)
  local row = random(vim.api.nvim_buf_line_count(buf))
  local line = vim.api.nvim_buf_get_lines(buf, row, row + 1, true)[1]
  local col = random(#line + 1)
  if col < #line then
    col = col + vim.str_utf_start(line, col + 1)
  end
  return row, col
end

local function ordered(row, col, end_row, end_col)
  if end_row < row or (end_row == row and end_col < col) then
    return end_row, end_col, row, col
  end
  return row, col, end_row, end_col
end

local function get(buf, r)
  return table.concat(vim.api.nvim_buf_get_text(buf, r[1], r[2], r[3], r[4], {}), "\n")
end

local function whole(buf)
  return table.concat(vim.api.nvim_buf_get_lines(buf, 0, -1, true), "\n")
end

local function offset(buf, row, col)
  return vim.api.nvim_buf_get_offset(buf, row) + col
end

---One edit, in one of the ways edits are made.
local function change(buf)
  local kind = random(10)
  local row, col = place(buf)
  local end_row, end_col = place(buf)
  row, col, end_row, end_col = ordered(row, col, end_row, end_col)
  if kind < 5 then
    vim.api.nvim_buf_set_text(buf, row, col, row, col, vim.split(text_of(4), "\n"))
  elseif kind < 8 then
    vim.api.nvim_buf_set_text(buf, row, col, end_row, end_col, vim.split(text_of(3), "\n"))
  elseif kind < 9 then
    vim.api.nvim_buf_set_lines(buf, row, math.min(row + random(3), end_row), true, vim.split(text_of(3), "\n"))
  else
    vim.cmd("silent! undo")
  end
end

function test_drafts_follow_edits_or_end()
  local survived, ended = 0, 0
  local buf = vim.api.nvim_create_buf(false, false)
  vim.api.nvim_set_current_buf(buf)
  for case = 1, CASES do
    vim.api.nvim_buf_set_lines(buf, 0, -1, true, vim.split(text_of(30), "\n"))
    local a, b, c, d = place(buf)
    c, d = place(buf)
    a, b, c, d = ordered(a, b, c, d)
    if random(2) == 0 then
      c, d = a, b
    end
    local draft = text_of(5)
    local session = sessions.new("r", buf, "infill", { { a, b, c, d } })
    local old = get(buf, session.holes[1].range)
    local before, after = "", ""
    local lost = false
    vim.api.nvim_buf_attach(buf, false, {
      on_bytes = function(_, _, _, row, col, _, rows, cols, _, new_rows, new_cols)
        if lost or not session:is_alive() then
          return true
        end
        lost = not session:follow(edit.change(row, col, rows, cols, new_rows, new_cols))
        return lost
      end,
    })
    for _ = 1, 1 + random(3) do
      change(buf)
    end
    if session:is_alive() then
      survived = survived + 1
      local range = session.holes[1].range
      local text = whole(buf)
      equal({ case, get(buf, range) }, { case, old })
      before = text:sub(1, offset(buf, range[1], range[2]))
      after = text:sub(offset(buf, range[3], range[4]) + 1)
      -- take the draft by the smallest replacement
      local from, to, new = edit.smallest(old, draft)
      local row, col = edit.advance(range[1], range[2], old:sub(1, from))
      local end_row, end_col = edit.advance(range[1], range[2], old:sub(1, to))
      session:stop()
      vim.api.nvim_buf_set_text(buf, row, col, end_row, end_col, vim.split(new, "\n"))
      equal({ case, whole(buf) }, { case, before .. draft .. after })
    else
      ended = ended + 1
    end
    session:stop()
  end
  print(("     %d drafts lived on, %d ended"):format(survived, ended))
  assert(survived > CASES / 10 and ended > CASES / 10, "the cases are too much alike")
end

---Where an offset of a text is, by counting.
local function counted(text, at)
  local before = text:sub(1, at)
  local _, rows = before:gsub("\n", "\n")
  return rows, #before:match("[^\n]*$")
end

function test_moving_agrees_with_offsets()
  for case = 1, CASES do
    local text = text_of(20)
    local places = {}
    for i = 1, 4 do
      places[i] = random(#text + 1)
    end
    local from, to = math.min(places[1], places[2]), math.max(places[1], places[2])
    local start, stop = math.min(places[3], places[4]), math.max(places[3], places[4])
    local new = text_of(4)
    local changed = text:sub(1, from) .. new .. text:sub(to + 1)
    local function pair(whole_text, at)
      return { counted(whole_text, at) }
    end
    local s, e = pair(text, start), pair(text, stop)
    local moved = edit.move(
      { s[1], s[2], e[1], e[2] },
      { start = pair(text, from), old = pair(text, to), new = pair(changed, from + #new) }
    )
    if from <= stop and start <= to then
      equal({ case, moved }, { case, nil })
    else
      local by = to < start and #new - (to - from) or 0
      local ms, me = pair(changed, start + by), pair(changed, stop + by)
      equal({ case, moved }, { case, { ms[1], ms[2], me[1], me[2] } })
    end
  end
end
