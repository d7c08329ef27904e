-- `:checkhealth blockdiff`

local client = require("blockdiff.client")
local config = require("blockdiff.config")
local status = require("blockdiff.status")

local M = {}

local function check_server()
  vim.health.start("Language server")
  local command, reason = client.command()
  if not command then
    vim.health.error(reason --[[@as string]], {
      "pip install 'blockdiff[engine]'",
      "or name the command: require('blockdiff').setup({ cmd = { '/path/to/blockdiff-lsp' } })",
    })
    return
  end
  vim.health.ok(table.concat(command, " "))
  local argv = vim.list_extend(vim.deepcopy(command), { "--version" })
  local ran, result = pcall(function()
    return vim.system(argv, { text = true, timeout = 10000, cwd = client.folder() }):wait()
  end)
  if not ran or result.code ~= 0 then
    local said = ran and vim.trim(result.stderr or "") or tostring(result)
    vim.health.error("it does not run: " .. said:sub(-400), { "is blockdiff installed for this Python?" })
    return
  end
  vim.health.ok(vim.trim(result.stdout))
  local clients = vim.lsp.get_clients({ name = client.name })
  for _, one in ipairs(clients) do
    local buffers = vim.tbl_count(one.attached_buffers)
    local noun = buffers == 1 and "buffer" or "buffers"
    vim.health.ok(("running with %d %s, positions in %s"):format(buffers, noun, one.offset_encoding))
  end
  if #clients == 0 then
    vim.health.info("not running; a command or a file of a known type starts it")
  end
end

local function check_engine()
  vim.health.start("Engine")
  local report = client.status.state == "error" and vim.health.error or vim.health.info
  report(status.engine(), { "blockdiff doctor", "`:lua vim.cmd.edit(vim.lsp.log.get_filename())`" })
end

local function check_options()
  vim.health.start("Options")
  for _, problem in ipairs(config.problems) do
    vim.health.warn(problem)
  end
  if #config.problems == 0 then
    vim.health.ok("nothing unknown")
  end
end

local function check_completions()
  vim.health.start("Completions while typing")
  local ghost = config.get().ghost
  if not ghost.enabled then
    vim.health.info("off: set `ghost.enabled` in setup()")
  else
    vim.health.info(ghost.native and vim.lsp.inline_completion and "Neovim's own" or "the plugin's")
  end
  local off = vim.tbl_filter(function(buf)
    return vim.b[buf].blockdiff_ghost == false
  end, vim.api.nvim_list_bufs())
  if #off > 0 then
    vim.health.info(("off in %d buffers by `vim.b.blockdiff_ghost`"):format(#off))
  end
  local missed = status.missed()
  vim.health.info(missed and "the last that did not come: " .. missed or "none that was asked for did not come")
end

function M.check()
  vim.health.start("Neovim")
  if vim.fn.has("nvim-0.11") == 0 then
    vim.health.error("Neovim 0.11 or newer is needed")
    return
  end
  vim.health.ok(tostring(vim.version()))
  check_server()
  check_engine()
  check_options()
  check_completions()
end

return M
