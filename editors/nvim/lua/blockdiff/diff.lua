-- From the text of a draft to what is painted: lines, chunks of one kind, parts, hunks.

---@alias blockdiff.Span integer[] start and end in bytes, 0-based, half-open

---@class blockdiff.Chunk
---@field [1] string text without a line break
---@field settled boolean
---@field uncertain boolean

local M = {}

---Text with "\n" as its only line break, and spans that follow it.
---@param text string
---@param ... blockdiff.Span[]
---@return string text, blockdiff.Span[] ...
function M.normalize(text, ...)
  if not text:find("\r", 1, true) then
    return text, ...
  end
  local gone = {} ---@type integer[] 0-based places of the CRs that go
  for at in text:gmatch("()\r\n") do
    gone[#gone + 1] = at - 1
  end
  local function shifted(offset)
    local by = 0
    for _, at in ipairs(gone) do
      if at >= offset then
        break
      end
      by = by + 1
    end
    return offset - by
  end
  local all = {}
  for i, spans in ipairs({ ... }) do
    all[i] = {}
    for j, span in ipairs(spans) do
      all[i][j] = { shifted(span[1]), shifted(span[2]) }
    end
  end
  return (text:gsub("\r\n", "\n"):gsub("\r", "\n")), unpack(all)
end

---Whether each byte of a text lies in one of the spans.
---@param size integer
---@param spans blockdiff.Span[]
---@return table<integer, boolean> by 1-based place
local function covered(size, spans)
  local inside = {}
  for _, span in ipairs(spans) do
    for at = math.max(span[1], 0) + 1, math.min(span[2], size) do
      inside[at] = true
    end
  end
  return inside
end

---The lines of a draft, each as chunks of one kind. Always at least one line.
---@param text string lines separated by "\n"
---@param settled blockdiff.Span[]
---@param uncertain blockdiff.Span[]
---@return blockdiff.Chunk[][]
function M.lines(text, settled, uncertain)
  local is_settled, is_uncertain = covered(#text, settled), covered(#text, uncertain)
  local lines, line, start = {}, {}, 1
  local function close(stop)
    if stop >= start then
      line[#line + 1] = {
        text:sub(start, stop),
        settled = is_settled[start] or false,
        uncertain = is_uncertain[start] or false,
      }
    end
    start = stop + 1
  end
  for at = 1, #text do
    if text:byte(at) == 10 then
      close(at - 1)
      lines[#lines + 1], line, start = line, {}, at + 1
    elseif at > start and (is_settled[at] ~= is_settled[at - 1] or is_uncertain[at] ~= is_uncertain[at - 1]) then
      close(at - 1)
    end
  end
  close(#text)
  lines[#lines + 1] = line
  return lines
end

---The first part of a draft: all of it, one line, or one word with the blanks before it.
---@param text string
---@param unit "all"|"line"|"word"
---@return string head, string rest
function M.head(text, unit)
  local stop = #text
  if unit == "line" then
    -- a draft that begins with a line break: that break and the line behind it
    stop = text:match("^\n?[^\n]*\n?()") - 1
    if text:sub(1, 1) == "\n" and text:sub(stop, stop) == "\n" and stop > 1 then
      stop = stop - 1
    end
  elseif unit == "word" then
    local at = text:match("^%s*()")
    stop = (text:match("^[%w_\128-\255]+()", at) or text:match("^[^%w_%s\128-\255]+()", at) or at) - 1
  end
  return text:sub(1, stop), text:sub(stop + 1)
end

---Spans of what is left of a text without its first bytes.
---@param spans blockdiff.Span[]
---@param gone integer
---@return blockdiff.Span[]
function M.without_head(spans, gone)
  local rest = {}
  for _, span in ipairs(spans) do
    if span[2] > gone then
      rest[#rest + 1] = { math.max(span[1] - gone, 0), span[2] - gone }
    end
  end
  return rest
end

---Lines that differ: {first old, count, first new, count}, 1-based; with a count of 0 the first is
---the line before.
---@param old string[]
---@param new string[]
---@return integer[][]
function M.hunks(old, new)
  local compare = vim.text and vim.text.diff or vim.diff
  local found = compare(table.concat(old, "\n") .. "\n", table.concat(new, "\n") .. "\n", { result_type = "indices" })
  return found --[[@as integer[][] ]]
end

return M
