-- blockdiff: ask for text, show the draft while it is refined, take it or leave it.

local client = require("blockdiff.client")
local config = require("blockdiff.config")
local diff = require("blockdiff.diff")
local edit = require("blockdiff.edit")
local ghost = require("blockdiff.ghost")
local keys = require("blockdiff.keys")
local place = require("blockdiff.place")
local sessions = require("blockdiff.session")
local ui = require("blockdiff.ui")

local M = {}

local MOST_HOLES = 8

---@type table<integer, blockdiff.Session> by buffer; one draft each
local open = {}
---@type table<string, {client: vim.lsp.Client, id: integer}> requests that run, by session
local requests = {}
local counter = 0

---Answer somebody who asked for something.
---@param message string
---@param level? integer
local function say(message, level)
  vim.notify("blockdiff: " .. message, level or vim.log.levels.WARN)
end

---The draft of a buffer.
---@param buf integer
---@return blockdiff.Session?
function M.session(buf)
  return open[buf]
end

---What stands behind the first line of a draft.
---@param session blockdiff.Session
---@return string
local function hint(session)
  if not config.get().hints then
    return ""
  end
  local parts = {}
  local function offer(name, what)
    if keys.key(name) then
      parts[#parts + 1] = keys.key(name) .. " " .. what
    end
  end
  if session.state == "running" then
    local status = client.status
    local loading = status.state == "starting" and (status.message ~= "" and status.message or "starting")
    local share = status.progress and loading and (" %d%%"):format(100 * status.progress) or ""
    parts[1] = loading and loading .. share .. "…" or "writing…"
    offer("reject", "stop")
  else
    offer("accept", "accept")
    offer("reject", "reject")
    if session.outcome.syntax == "broken" then
      parts[#parts + 1] = "does not parse"
    end
    if session.outcome.finish == "length" then
      parts[#parts + 1] = "cut at the limit"
    end
  end
  return table.concat(parts, "  ")
end

---@param session blockdiff.Session
local function render(session)
  if open[session.buf] == session and vim.api.nvim_buf_is_loaded(session.buf) then
    ui.render(session, hint(session))
  end
end

---End a session: its request is cancelled, nothing of it is painted any more.
---@param session blockdiff.Session
local function close(session)
  session:stop()
  local request = requests[session.id]
  requests[session.id] = nil
  if request and not request.client:is_stopped() then
    request.client:cancel_request(request.id)
  end
  if open[session.buf] == session then
    open[session.buf] = nil
    ui.clear(session.buf)
    keys.hide(session.buf)
  end
end

---Follow the edits of its buffer for as long as a session lives.
---@param session blockdiff.Session
local function watch(session)
  local function lose()
    session:stop()
    vim.schedule(function()
      close(session)
    end)
    return true
  end
  vim.api.nvim_buf_attach(session.buf, false, {
    on_bytes = function(_, _, _, row, col, _, old_rows, old_cols, _, new_rows, new_cols)
      if not session:is_alive() then
        return true
      end
      local change = edit.change(row, col, old_rows, old_cols, new_rows, new_cols)
      if not session:follow(change, session.own) then
        return lose()
      end
    end,
    on_reload = lose,
    on_detach = lose,
  })
end

---@param buf integer
---@param range blockdiff.Range
---@param encoding string
---@return lsp.Range
local function to_lsp(buf, range, encoding)
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
local function from_lsp(buf, range, encoding)
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
local function spans_in_bytes(text, spans, encoding)
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

---Take a `blockdiff/refinement`.
---@param params table
---@param client_id integer
function M.refine(params, client_id)
  local server = vim.lsp.get_client_by_id(client_id)
  for buf, session in pairs(open) do
    if server and session.id == params.requestId and vim.api.nvim_buf_is_loaded(buf) then
      local encoding = server.offset_encoding
      local refinement = vim.tbl_extend("force", params, {
        range = from_lsp(buf, params.range, encoding),
        settled = spans_in_bytes(params.text, params.settled, encoding),
        uncertain = spans_in_bytes(params.text, params.uncertain, encoding),
      })
      local result = session:refine(refinement, vim.lsp.util.buf_versions[buf])
      if result == "taken" then
        render(session)
      elseif result == "lost" then
        client.log("a draft was dropped: the server followed an edit to another place")
        close(session)
      end
    end
  end
end

---@param session blockdiff.Session
---@param err? lsp.ResponseError
---@param outcome? table
local function answered(session, err, outcome)
  requests[session.id] = nil
  if not session:is_alive() then
    return
  end
  if outcome and session:finish(outcome) then
    return render(session)
  end
  close(session)
  local message = not err and "there is nothing to change" or client.explain(err)
  if message then
    say(message, err and vim.log.levels.ERROR or vim.log.levels.INFO)
  end
end

---@param session blockdiff.Session
---@param server vim.lsp.Client
---@param method string
---@param params table
local function send(session, server, method, params)
  params.requestId = session.id
  params.textDocument = {
    uri = vim.uri_from_bufnr(session.buf),
    version = vim.lsp.util.buf_versions[session.buf],
  }
  local sent, id = server:request(method, params, function(err, outcome)
    answered(session, err, outcome)
  end, session.buf)
  if sent and id then
    requests[session.id] = { client = server, id = id }
  else
    close(session)
    say("the language server is gone", vim.log.levels.ERROR)
  end
end

---Open a session and send its request as soon as there is a server.
---@param kind "infill"|"rewrite"
---@param ranges blockdiff.Range[]
---@param params fun(encoding: string, ranges: lsp.Range[]): table
local function start(kind, ranges, params)
  local buf = vim.api.nvim_get_current_buf()
  if not vim.bo[buf].modifiable then
    return say("this buffer cannot be changed")
  end
  if vim.fn.search("\r", "nw") > 0 then
    return say("this buffer mixes line endings, a language server counts its lines differently")
  end
  ghost.clear(buf)
  if open[buf] then
    close(open[buf])
  end
  counter = counter + 1
  local id = ("nvim-%d-%d"):format(vim.fn.getpid(), counter)
  local session = sessions.new(id, buf, kind, ranges)
  open[buf] = session
  watch(session)
  keys.show(buf)
  render(session)
  client.with(buf, function(server, reason)
    if not session:is_alive() then
      return
    end
    if not server then
      close(session)
      return say(reason or "there is no language server", vim.log.levels.ERROR)
    end
    local converted = vim.tbl_map(function(hole)
      return to_lsp(buf, hole.range, server.offset_encoding)
    end, session.holes)
    send(session, server, "blockdiff/" .. kind, params(server.offset_encoding, converted))
  end)
end

---Fill holes of the current buffer.
---@param holes? blockdiff.Range[] the cursor by default
---@param options? {mode?: string, maxTokens?: integer, seed?: integer}
function M.infill(holes, options)
  holes = holes or { place.cursor() }
  if #holes == 0 then
    return say("there is nothing to fill")
  end
  if #holes > MOST_HOLES then
    return say(("%d holes are too many, %d is the most"):format(#holes, MOST_HOLES))
  end
  start("infill", holes, function(_, ranges)
    return vim.tbl_extend("force", options or {}, { holes = ranges })
  end)
end

---Rewrite a range of the current buffer.
---@param range? blockdiff.Range the cursor's line by default
---@param instruction? string without one, what the model finds unlikely is written anew
---@param options? {strength?: number, maxTokens?: integer, seed?: integer}
function M.rewrite(range, instruction, options)
  local row = vim.api.nvim_win_get_cursor(0)[1]
  range = range or place.lines(row, row)
  if range[1] == range[3] and range[2] == range[4] then
    return say("there is nothing to rewrite")
  end
  start("rewrite", { range }, function(_, ranges)
    return vim.tbl_extend("force", options or {}, { range = ranges[1], instruction = instruction or "" })
  end)
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

---@param session blockdiff.Session
local function accept_all(session)
  close(session)
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

---@param session blockdiff.Session
---@param unit "line"|"word"
local function accept_part(session, unit)
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
  if #session.holes == 0 then
    close(session)
  else
    render(session)
  end
end

---Take the draft of the current buffer, or the completion at the cursor; one undo step.
---@param unit? "all"|"line"|"word"
function M.accept(unit)
  unit = unit or "all"
  local buf = vim.api.nvim_get_current_buf()
  local session = open[buf]
  if not session then
    if not ghost.accept(buf, unit) then
      say("there is nothing to accept")
    end
    return
  end
  if session.state ~= "ready" then
    return say("the draft is not finished yet", vim.log.levels.INFO)
  end
  if not vim.bo[buf].modifiable then
    return say("this buffer cannot be changed")
  end
  vim.cmd("let &g:undolevels = &g:undolevels") -- an undo step of its own, in insert mode, too
  if unit == "all" then
    accept_all(session)
  else
    accept_part(session, unit)
  end
  vim.cmd("let &g:undolevels = &g:undolevels")
end

---Leave the draft or completion of the current buffer; what is still being written is cancelled.
function M.reject()
  local buf = vim.api.nvim_get_current_buf()
  if open[buf] then
    close(open[buf])
  end
  ghost.clear(buf)
end

---Cancel whatever is being written, in all buffers. Finished drafts stay.
function M.stop()
  for _, session in ipairs(vim.tbl_values(open)) do
    if session.state == "running" then
      close(session)
    end
  end
  ghost.clear(vim.api.nvim_get_current_buf())
end

---Go to the next hole of a draft, or show the next completion.
function M.next()
  local buf = vim.api.nvim_get_current_buf()
  local session = open[buf]
  if not session then
    return ghost.next(buf, function(message)
      if message then
        say(message, vim.log.levels.INFO)
      end
    end)
  end
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local ahead = session.holes[session:at(row - 1, col + 1)].range
  if ahead[1] == row - 1 and ahead[2] <= col then -- the cursor is in this one
    local after_col = ahead[4] + 1
    ahead = session.holes[session:at(ahead[3], after_col)].range
  end
  vim.cmd("normal! m'")
  put_cursor(ahead[1], ahead[2])
end

---One line for `:BlockDiff status`.
---@return string
function M.status()
  local s = client.status
  local parts = { s.state }
  for _, part in ipairs({ s.model, s.device, s.message }) do
    if part ~= "" then
      parts[#parts + 1] = part
    end
  end
  if s.progress then
    parts[#parts + 1] = ("%d%%"):format(100 * s.progress)
  end
  if s.tokensPerSecond then
    parts[#parts + 1] = ("%.1f tokens/s"):format(s.tokensPerSecond)
  end
  return table.concat(parts, ", ")
end

---A component for the statusline: `%{%v:lua.require'blockdiff'.statusline()%}`.
---@return string empty while there is no engine
function M.statusline()
  local s = client.status
  local share = s.progress and (" %d%%%%"):format(100 * s.progress) or ""
  local text = {
    stopped = "",
    starting = "blockdiff starting" .. share,
    ready = "blockdiff",
    busy = "blockdiff writing",
    error = "blockdiff error",
  }
  local speed = s.state == "ready" and s.tokensPerSecond and (" %.1f/s"):format(s.tokensPerSecond) or ""
  return text[s.state] .. speed
end

---@param opts? blockdiff.Config
function M.setup(opts)
  config.setup(opts)
  for _, problem in ipairs(config.problems) do
    client.log("setup: " .. problem)
  end
  keys.setup()
  vim.lsp.config(client.name, {
    filetypes = config.get().filetypes,
    settings = { blockdiff = config.get().server },
  })
  if config.get().autostart then
    vim.lsp.enable(client.name)
  end
end

client.on_exit[#client.on_exit + 1] = function(client_id)
  for _, session in ipairs(vim.tbl_values(open)) do
    local request = requests[session.id]
    if request and request.client.id == client_id then
      close(session)
      say("the language server ended: " .. client.status.message, vim.log.levels.ERROR)
    end
  end
end

vim.api.nvim_create_autocmd("User", {
  group = vim.api.nvim_create_augroup("blockdiff.status", { clear = true }),
  pattern = "BlockDiffStatus",
  callback = function()
    for _, session in pairs(open) do
      if session.state == "running" then
        render(session)
      end
    end
  end,
})

return M
