-- Places in bytes, as Neovim counts them, and in the units of the position encoding of a server.

local M = {}

---@param buf integer
---@param range blockdiff.Range
---@param encoding string
---@return lsp.Range
function M.to_lsp(buf, range, encoding)
  local function position(row, col)
    local line = vim.api.nvim_buf_get_lines(buf, row, row + 1, false)[1] or ""
    return { line = row, character = vim.str_utfindex(line, encoding, math.min(col, #line), false) }
  end
  return { start = position(range[1], range[2]), ["end"] = position(range[3], range[4]) }
end

---@param buf integer
---@param range lsp.Range
---@param encoding string
---@return blockdiff.Range
function M.from_lsp(buf, range, encoding)
  local function column(position)
    local line = vim.api.nvim_buf_get_lines(buf, position.line, position.line + 1, false)[1] or ""
    return vim.str_byteindex(line, encoding, position.character, false)
  end
  return { range.start.line, column(range.start), range["end"].line, column(range["end"]) }
end

---@param text string
---@param spans integer[][]
---@param encoding string
---@return blockdiff.Span[]
function M.spans_in_bytes(text, spans, encoding)
  if encoding == "utf-8" then
    return spans
  end
  return vim.tbl_map(function(span)
    return {
      vim.str_byteindex(text, encoding, span[1], false),
      vim.str_byteindex(text, encoding, span[2], false),
    }
  end, spans)
end

return M
