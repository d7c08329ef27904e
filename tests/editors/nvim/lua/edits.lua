-- Random edits of the first buffer that stay out of the line with the hole. Whether the draft lives.

local seed, count = ...
local PIECES = { "a", "é\n", "\n\n", "🦊", "", "x = 1\n\t" }
local state = seed

local function random(n) -- 0..n-1
  state = (state * 16807) % 2147483647
  return state % n
end

local session = require("blockdiff").session(1)
for _ = 1, count do
  local row = random(vim.api.nvim_buf_line_count(1))
  if row ~= session.holes[1].range[1] then
    local line = vim.api.nvim_buf_get_lines(1, row, row + 1, true)[1]
    local from = random(#line + 1)
    from = from < #line and from + vim.str_utf_start(line, from + 1) or from
    local to = random(3) == 0 and #line or from
    vim.api.nvim_buf_set_text(1, row, from, row, to, vim.split(PIECES[random(#PIECES) + 1], "\n"))
  end
end
return session:is_alive()
