-- blockdiff: ask for text, show the draft while it is refined, take it or leave it.

local accept = require("blockdiff.accept")
local client = require("blockdiff.client")
local config = require("blockdiff.config")
local edit = require("blockdiff.edit")
local ghost = require("blockdiff.ghost")
local keys = require("blockdiff.keys")
local place = require("blockdiff.place")
local positions = require("blockdiff.positions")
local sessions = require("blockdiff.session")
local status = require("blockdiff.status")
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

---@param session blockdiff.Session
local function render(session)
  if open[session.buf] == session and vim.api.nvim_buf_is_loaded(session.buf) then
    ui.render(session, status.hint(session))
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
    ghost.give_way(session.buf, false)
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

---Take a `blockdiff/refinement`.
---@param params table
---@param client_id integer
function M.refine(params, client_id)
  local server = vim.lsp.get_client_by_id(client_id)
  for buf, session in pairs(open) do
    if server and session.id == params.requestId and vim.api.nvim_buf_is_loaded(buf) then
      local encoding = server.offset_encoding
      local refinement = vim.tbl_extend("force", params, {
        range = positions.from_lsp(buf, params.range, encoding),
        settled = positions.spans_in_bytes(params.text, params.settled, encoding),
        uncertain = positions.spans_in_bytes(params.text, params.uncertain, encoding),
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
  ghost.give_way(buf, true)
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
      return positions.to_lsp(buf, hole.range, server.offset_encoding)
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
  accept.new_undo_step()
  if unit == "all" then
    close(session)
    accept.all(session)
  else
    accept.part(session, unit)
    if #session.holes == 0 then
      close(session)
    else
      render(session)
    end
  end
  accept.new_undo_step()
end

---Leave the draft or completion of the current buffer; what is still being written is cancelled.
function M.reject()
  local buf = vim.api.nvim_get_current_buf()
  if open[buf] then
    close(open[buf])
  end
  ghost.dismiss(buf)
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
  vim.api.nvim_win_set_cursor(0, { ahead[1] + 1, ahead[2] })
end

---Complete several lines from now on where it was one, and the reverse; what is shown is replaced.
function M.toggle_multiline()
  local on = not config.get().server.inline.multiline
  client.set_multiline(on)
  say(on and "completions of several lines" or "completions of one line", vim.log.levels.INFO)
  local buf = vim.api.nvim_get_current_buf()
  if not open[buf] then
    ghost.again(buf, function() end)
  end
end

---One line for `:BlockDiff status`.
---@return string
function M.status()
  return status.line()
end

---A component for the statusline: `%{%v:lua.require'blockdiff'.statusline()%}`.
---@return string empty while there is no engine
function M.statusline()
  return status.statusline()
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
