-- `:BlockDiff`: what is typed, and what is offered to type.

local place = require("blockdiff.place")

local M = {}

local WORDS = { "infill", "rewrite", "accept", "reject", "next", "multiline", "stop", "status" }
local AFTER_ACCEPT = { "line", "word" }

---Whether the lines of a command are those of the last selection.
---@param args vim.api.keyset.create_user_command.command_args
---@return boolean
local function is_selection(args)
  return args.range == 2 and args.line1 == vim.fn.line("'<") and args.line2 == vim.fn.line("'>")
end

---@param args vim.api.keyset.create_user_command.command_args
---@return blockdiff.Range[]? nil where there is no range
local function holes(args)
  if args.range == 0 then
    return nil
  end
  local mode = vim.fn.visualmode()
  if is_selection(args) and mode ~= "V" then
    return place.selection(mode, vim.fn.getpos("'<"), vim.fn.getpos("'>"))
  end
  return { place.lines(args.line1, args.line2) }
end

---@param args vim.api.keyset.create_user_command.command_args
---@param rest string
local function infill(args, rest)
  local pattern = rest:match("^/(.*)/$") or rest:match("^/(.*)$")
  local found = holes(args)
  if pattern then
    local whole = args.range == 0
    found = place.matches(pattern, whole and 1 or args.line1, whole and vim.fn.line("$") or args.line2)
  elseif rest ~= "" then
    return vim.notify("blockdiff: infill takes a range and a /pattern/, not " .. rest, vim.log.levels.WARN)
  end
  require("blockdiff").infill(found)
end

---@param args vim.api.keyset.create_user_command.command_args
---@param rest string
local function rewrite(args, rest)
  local found = holes(args)
  require("blockdiff").rewrite(found and found[1], rest)
end

---@param args vim.api.keyset.create_user_command.command_args
function M.run(args)
  local word, rest = args.args:match("^(%S+)%s*(.-)%s*$")
  local blockdiff = require("blockdiff")
  if word == "infill" then
    infill(args, rest)
  elseif word == "rewrite" then
    rewrite(args, rest)
  elseif word == "accept" and (rest == "" or vim.tbl_contains(AFTER_ACCEPT, rest)) then
    blockdiff.accept(rest ~= "" and rest or "all")
  elseif word == "multiline" and rest == "" then
    blockdiff.toggle_multiline()
  elseif word == "status" and rest == "" then
    vim.api.nvim_echo({ { "blockdiff: " .. blockdiff.status() } }, false, {})
  elseif vim.tbl_contains(WORDS, word) and word ~= "accept" and rest == "" then
    blockdiff[word]()
  else
    vim.notify("blockdiff: unknown command " .. args.args, vim.log.levels.WARN)
  end
end

---@param lead string
---@param line string
---@return string[]
function M.complete(lead, line)
  local before = line:match("BlockDiff%s+(.*)$") or ""
  local words = {}
  if before:match("^%S*$") then
    words = WORDS
  elseif before:match("^accept%s+%S*$") then
    words = AFTER_ACCEPT
  end
  return vim.tbl_filter(function(word)
    return vim.startswith(word, lead)
  end, words)
end

---The selection of visual mode, which ends.
---@return blockdiff.Range[]
local function selected()
  local found = place.selection(vim.fn.mode(), vim.fn.getpos("v"), vim.fn.getpos("."))
  vim.api.nvim_feedkeys(vim.keycode("<Esc>"), "nx", false)
  return found
end

---@return boolean
local function is_visual()
  return vim.tbl_contains({ "v", "V", "\22" }, vim.fn.mode())
end

---Infill of the selection or at the cursor, for a mapping.
function M.infill()
  require("blockdiff").infill(is_visual() and selected() or nil)
end

---Rewrite of the selection or the line; asks what to do.
function M.rewrite()
  local range = is_visual() and selected()[1] or nil
  vim.ui.input({ prompt = "Rewrite: " }, function(instruction)
    if instruction then
      require("blockdiff").rewrite(range, instruction)
    end
  end)
end

return M
