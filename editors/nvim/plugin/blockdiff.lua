if vim.g.loaded_blockdiff then
  return
end
vim.g.loaded_blockdiff = true

if vim.fn.has("nvim-0.11") == 0 then
  return
end

local function call(name, ...)
  local arguments = { ... }
  return function()
    require("blockdiff")[name](unpack(arguments))
  end
end

vim.api.nvim_create_user_command("BlockDiff", function(args)
  require("blockdiff.commands").run(args)
end, {
  nargs = "+",
  range = true,
  desc = "Fill in and rewrite code with a local model",
  complete = function(lead, line)
    return require("blockdiff.commands").complete(lead, line)
  end,
})

local map = vim.keymap.set
map({ "n", "x", "i" }, "<Plug>(blockdiff-infill)", function()
  require("blockdiff.commands").infill()
end)
map({ "n", "x" }, "<Plug>(blockdiff-rewrite)", function()
  require("blockdiff.commands").rewrite()
end)
map({ "n", "i" }, "<Plug>(blockdiff-accept)", call("accept"))
map({ "n", "i" }, "<Plug>(blockdiff-accept-line)", call("accept", "line"))
map({ "n", "i" }, "<Plug>(blockdiff-accept-word)", call("accept", "word"))
map({ "n", "i" }, "<Plug>(blockdiff-reject)", call("reject"))
map({ "n", "i" }, "<Plug>(blockdiff-next)", call("next"))
map({ "n", "i" }, "<Plug>(blockdiff-multiline)", call("toggle_multiline"))
map({ "n", "i" }, "<Plug>(blockdiff-stop)", call("stop"))

local group = vim.api.nvim_create_augroup("blockdiff", { clear = true })

local function highlights()
  require("blockdiff.ui").set_highlights()
end
highlights()
vim.api.nvim_create_autocmd("ColorScheme", { group = group, callback = highlights })

vim.api.nvim_create_autocmd("LspAttach", {
  group = group,
  callback = function(event)
    local client = vim.lsp.get_client_by_id(event.data.client_id)
    if client and client.name == "blockdiff" then
      require("blockdiff.ghost").attach(event.buf)
    end
  end,
})

-- Installed by one command, the plugin needs no line in init.lua.
vim.api.nvim_create_autocmd("VimEnter", {
  group = group,
  callback = function()
    if not require("blockdiff.config").is_set and require("blockdiff.client").installer() then
      require("blockdiff").setup()
    end
  end,
})
