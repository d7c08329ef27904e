-- The language server: how it is found and started, what it says of itself, and what goes wrong.

local config = require("blockdiff.config")

---@class blockdiff.Status a `blockdiff/status`
---@field state "stopped"|"starting"|"ready"|"busy"|"error"
---@field model string
---@field device string
---@field backend? string the server of others that code is sent to; empty: our own engine writes
---@field message string
---@field progress? number
---@field tokensPerSecond? number
---@field missed? blockdiff.Missed

---@class blockdiff.Missed the last automatic completion that did not come
---@field kind string
---@field time integer in seconds since 1970
---@field uri string
---@field line integer 0-based
---@field message string what it means, and what to do

local M = {
  name = "blockdiff",
  ---@type blockdiff.Status
  status = { state = "stopped", model = "", device = "", message = "" },
  ---@type fun(client_id: integer)[] called when a server has ended
  on_exit = {},
}

local NO_SERVER = "no language server was found: install blockdiff with pip, or set `cmd` in setup()"
local OLD_SERVER = "the language server is older than this plugin: pip install --upgrade blockdiff"

---One line for the log, which `:lua vim.cmd.edit(vim.lsp.log.get_filename())` opens.
---@param message string
function M.log(message)
  require("vim.lsp.log").warn("blockdiff", message)
end

---@param status blockdiff.Status
function M.set_status(status)
  M.status = status
  vim.api.nvim_exec_autocmds("User", { pattern = "BlockDiffStatus", modeline = false })
  vim.cmd.redrawstatus({ bang = true })
end

---Something failed: a state and a line in the log, never a notification.
---@param message string
function M.fail(message)
  M.log(message)
  local s = M.status
  M.set_status({
    state = "error", model = s.model, device = s.device, backend = s.backend, message = message, missed = s.missed,
  })
end

local HERE = vim.fn.fnamemodify(debug.getinfo(1, "S").source:sub(2), ":p")

---The checkout that this plugin lies in, if it lies in one.
---@return string?
local function checkout()
  local file = vim.uv.fs_realpath(HERE) -- a package may be a link to the checkout
  local root = file and vim.fs.normalize(vim.fs.dirname(file) .. "/../../../..")
  return root and vim.uv.fs_stat(root .. "/lsp_server/__main__.py") and root or nil
end

---A folder for the server to start in. In Neovim's own, the open project, a Python or a search for a
---program may find files of the project.
---@return string
function M.folder()
  return checkout() or vim.fs.dirname(HERE)
end

---The absolute path of a program: an absolute path, or a name on PATH. Relative entries of PATH, and on
---Windows the current folder, would mean the open project.
---@param name any
---@return string?
local function program(name)
  if type(name) ~= "string" or name == "" then
    return nil
  end
  local windows = vim.fn.has("win32") == 1
  local function absolute(path)
    return vim.startswith(path, "/") or (windows and path:find("^%a:[/\\]") ~= nil)
  end
  if name:find("[/\\]") then
    local path = vim.fs.normalize(name) -- `~` and `$HOME`
    return absolute(path) and vim.fn.executable(path) == 1 and path or nil
  end
  for _, folder in ipairs(vim.split(vim.env.PATH or "", windows and ";" or ":", { plain = true })) do
    local path = folder .. "/" .. name
    if absolute(folder) and vim.fn.executable(path) == 1 then
      return windows and vim.fn.exepath(path) or path
    end
  end
end

---The Python that put this plugin here by `blockdiff editors install`, if that did.
---@return string?
function M.installer()
  local marker = vim.fs.normalize(vim.fs.dirname(HERE) .. "/../../blockdiff-installed.json")
  local file = io.open(marker)
  if not file then
    return nil
  end
  local ok, value = pcall(vim.json.decode, file:read("*a"))
  file:close()
  local python = ok and type(value) == "table" and value.python
  return type(python) == "string" and vim.fn.executable(python) == 1 and python or nil
end

---What starts the server, or nil and why not.
---@return string[]? command, string? reason
function M.command()
  local chosen = config.get().cmd
  if chosen then
    local path = program(chosen[1])
    if path then
      return { path, unpack(chosen, 2) }
    end
    return nil, ("`cmd` names %s, which cannot be run"):format(vim.inspect(chosen[1]))
  end
  local installer = M.installer()
  if installer then
    return { installer, "-m", "lsp_server" }
  end
  local installed = program("blockdiff-lsp")
  if installed then
    return { installed }
  end
  local root = checkout()
  for _, place in ipairs({ "/.venv/bin/python", "/.venv/Scripts/python.exe" }) do
    if root and vim.fn.executable(root .. place) == 1 then
      return { root .. place, "-m", "lsp_server" }
    end
  end
  return nil, NO_SERVER
end

---For `cmd` of `lsp/blockdiff.lua`. A server that ends by itself becomes a state, not a message.
---@param dispatchers vim.lsp.rpc.Dispatchers
---@return vim.lsp.rpc.PublicClient
function M.spawn(dispatchers)
  local command = assert(M.command())
  local ended = dispatchers.on_exit
  dispatchers.on_exit = function(code, signal)
    if code ~= 0 or (signal ~= 0 and signal ~= 15) then
      vim.schedule(function()
        M.fail(
          ("the language server ended (exit code %d, signal %d); the next command starts it again"):format(code, signal)
        )
      end)
    end
    ended(0, 0)
  end
  return vim.lsp.rpc.start(command, dispatchers, { cwd = M.folder() })
end

---@param buf integer
---@return boolean
local function is_code(buf)
  return vim.tbl_contains({ "", "acwrite", "nofile", "nowrite" }, vim.bo[buf].buftype)
end

---For `root_dir` of `lsp/blockdiff.lua`: called only where the server can and should start.
---@param buf integer
---@param on_dir fun(root?: string)
function M.root(buf, on_dir)
  local command, reason = M.command()
  if command and vim.api.nvim_buf_get_name(buf) ~= "" then
    on_dir(vim.fs.root(buf, ".git"))
  elseif not command and M.status.message ~= reason then
    M.fail(reason --[[@as string]])
  end
end

---The server of a buffer, if it is attached.
---@param buf integer
---@return vim.lsp.Client?
function M.attached(buf)
  local client = vim.lsp.get_clients({ name = M.name, bufnr = buf })[1]
  return client and not client:is_stopped() and client or nil
end

---Neovim names every buffer without a name alike, so that only one of them can be open in a server.
---@param buf integer
local function only_unnamed(buf)
  for _, client in ipairs(vim.lsp.get_clients({ name = M.name })) do
    for other in pairs(client.attached_buffers) do
      if other ~= buf and vim.api.nvim_buf_get_name(other) == "" then
        vim.lsp.buf_detach_client(other, client.id)
      end
    end
  end
end

---@param buf integer
---@return string? reason
local function start(buf)
  local command, reason = M.command()
  if not command then
    return reason
  end
  local settings = vim.deepcopy(vim.lsp.config[M.name])
  if not settings then
    return "lsp/blockdiff.lua is not on the runtimepath"
  end
  if vim.api.nvim_buf_get_name(buf) == "" then
    only_unnamed(buf)
  end
  settings.root_dir = vim.fs.root(buf, ".git")
  settings.name = M.name
  if not vim.lsp.start(settings, { bufnr = buf, silent = true }) then
    return ("%s could not be started"):format(command[1])
  end
end

---The server of a buffer, started if need be.
---@param buf integer
---@param done fun(client?: vim.lsp.Client, reason?: string) called once, perhaps later
function M.with(buf, done)
  if not is_code(buf) then
    return done(nil, "this buffer holds no code")
  end
  local client = M.attached(buf)
  if client and client.initialized then
    return done(client)
  end
  local reason = not client and start(buf)
  if reason then
    return done(nil, reason)
  end
  local waited, timer = 0, assert(vim.uv.new_timer())
  timer:start(20, 20, vim.schedule_wrap(function()
    if timer:is_closing() then
      return
    end
    waited = waited + 20
    client = vim.api.nvim_buf_is_valid(buf) and M.attached(buf) or nil
    local ready = client and client.initialized
    if ready or waited >= 1000 * config.get().patience or #vim.lsp.get_clients({ name = M.name, _uninitialized = true }) == 0 then
      timer:close()
      if ready then
        done(client)
      elseif M.status.state == "error" then
        done(nil, M.status.message)
      else
        M.fail("the language server does not answer")
        done(nil, M.status.message)
      end
    end
  end))
end

---Have every server complete several lines, or one, from now on.
---@param on boolean
function M.set_multiline(on)
  local changed = { blockdiff = { inline = { multiline = on } } }
  config.get().server.inline.multiline = on
  vim.lsp.config(M.name, { settings = changed })
  for _, server in ipairs(vim.lsp.get_clients({ name = M.name })) do
    server.settings = vim.tbl_deep_extend("force", server.settings, changed)
    server:notify("workspace/didChangeConfiguration", { settings = server.settings })
  end
end

---What an error of the protocol means to somebody who waits; nil: there is nothing to say.
---@param err lsp.ResponseError
---@return string?
function M.explain(err)
  local quiet = { [-32800] = true, [-32801] = true, [-32802] = true } -- cancelled, changed, replaced
  if quiet[err.code] then
    return nil
  end
  return err.code == -32601 and OLD_SERVER or err.message
end

---@param id integer
local function ended(id)
  vim.schedule(function()
    if M.status.state ~= "error" then
      M.set_status({ state = "stopped", model = "", device = "", message = "" })
    end
    for _, tell in ipairs(M.on_exit) do
      tell(id)
    end
  end)
end

---The configuration for `vim.lsp.config`.
---@return vim.lsp.Config
function M.lsp_config()
  return {
    cmd = M.spawn,
    filetypes = config.get().filetypes,
    root_dir = M.root,
    settings = { blockdiff = config.get().server },
    -- what only this plugin understands is sent to those that say that they do
    capabilities = { experimental = { blockdiff = { refinement = true, status = true } } },
    reuse_client = function(client)
      return client.name == M.name
    end,
    on_exit = function(_, _, id)
      ended(id)
    end,
    handlers = {
      ["blockdiff/status"] = function(_, params)
        M.set_status(params)
      end,
      ["blockdiff/refinement"] = function(_, params, context)
        require("blockdiff").refine(params, context.client_id)
      end,
      ["window/showMessage"] = function(_, params)
        local kind = vim.lsp.protocol.MessageType
        if params.type == kind.Warning then -- what is wrong with the settings; nobody asked for it now
          M.log(params.message)
          config.problems[#config.problems + 1] = params.message
        else -- what came of an action
          vim.notify(params.message, params.type == kind.Error and vim.log.levels.ERROR or vim.log.levels.INFO)
        end
      end,
    },
  }
end

return M
