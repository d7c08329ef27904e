-- Mappings: two that are always there, and those of a buffer that shows something.

local config = require("blockdiff.config")

local M = {}

local plugs = {
  accept = "<Plug>(blockdiff-accept)",
  accept_line = "<Plug>(blockdiff-accept-line)",
  accept_word = "<Plug>(blockdiff-accept-word)",
  next = "<Plug>(blockdiff-next)",
  multiline = "<Plug>(blockdiff-multiline)",
  reject = "<Plug>(blockdiff-reject)",
  dismiss = "<Plug>(blockdiff-reject)",
}
local modes = {
  accept = { "n", "i" },
  accept_line = { "n", "i" },
  accept_word = { "n", "i" },
  next = { "n", "i" },
  multiline = { "i" },
  reject = { "n" },
  dismiss = { "i" },
}

---What the shown mappings hide in a buffer, to be put back.
---@type table<integer, {lhs: string, mode: string, before?: table}[]>
local shown = {}

---The key that does something, for hints; nil if it is switched off.
---@param name string
---@return string?
function M.key(name)
  local keys = config.get().keys
  return keys and keys[name] or nil
end

function M.setup()
  local infill, rewrite = M.key("infill"), M.key("rewrite")
  if infill then
    vim.keymap.set({ "n", "x" }, infill, "<Plug>(blockdiff-infill)", { desc = "blockdiff: infill" })
  end
  if rewrite then
    vim.keymap.set({ "n", "x" }, rewrite, "<Plug>(blockdiff-rewrite)", { desc = "blockdiff: rewrite" })
  end
end

---A key of insert mode belongs to the completion menu while that is open.
---@param lhs string
---@param plug string
---@return function
local function unless_menu(lhs, plug)
  return function()
    return vim.fn.pumvisible() == 1 and lhs or plug
  end
end

---@param buf integer
function M.show(buf)
  if shown[buf] then
    return
  end
  shown[buf] = {}
  for name, plug in pairs(plugs) do
    local lhs = M.key(name)
    for _, mode in ipairs(lhs and modes[name] or {}) do
      ---@cast lhs string
      local before = vim.api.nvim_buf_call(buf, function()
        return vim.fn.maparg(lhs, mode, false, true)
      end)
      table.insert(shown[buf], { lhs = lhs, mode = mode, before = before.buffer == 1 and before or nil })
      vim.keymap.set(mode, lhs, mode == "i" and unless_menu(lhs, plug) or plug, {
        buffer = buf,
        expr = mode == "i",
        remap = true,
        nowait = true,
        desc = "blockdiff: " .. name:gsub("_", " "),
      })
    end
  end
end

---@param buf integer
function M.hide(buf)
  local maps = shown[buf] or {}
  shown[buf] = nil
  if not vim.api.nvim_buf_is_valid(buf) then
    return
  end
  for _, map in ipairs(maps) do
    pcall(vim.keymap.del, map.mode, map.lhs, { buffer = buf })
    if map.before then
      vim.api.nvim_buf_call(buf, function()
        vim.fn.mapset(map.mode, false, map.before)
      end)
    end
  end
end

return M
