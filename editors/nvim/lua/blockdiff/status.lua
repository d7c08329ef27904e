-- What is said of the engine and of a draft: one line on command, the statusline, the hint.

local client = require("blockdiff.client")
local config = require("blockdiff.config")
local keys = require("blockdiff.keys")

local M = {}

---The server of others that code is sent to; empty: our own engine writes.
---@return string
function M.backend()
  return client.status.backend or ""
end

---Why the last completion that did not come while typing did not, when and where; nil if all came.
---@return string?
function M.missed()
  local missed = client.status.missed
  if not missed then
    return nil
  end
  local name = missed.uri:find("^file:") and vim.fn.fnamemodify(vim.uri_to_fname(missed.uri), ":~:.") or missed.uri
  return ("%s (%s:%d, %s)"):format(missed.message, name, missed.line + 1, os.date("%H:%M:%S", missed.time))
end

---How the engine is.
---@return string
function M.engine()
  local s = client.status
  local parts = { s.state }
  local place = M.backend() ~= "" and "code is sent to " .. M.backend() or s.device
  for _, part in ipairs({ s.model, place, s.message }) do
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

---One line for `:BlockDiff status`: that, and why a completion did not come.
---@return string
function M.line()
  local missed = M.missed()
  return M.engine() .. (missed and "; no completion: " .. missed or "")
end

---A component for the statusline: `%{%v:lua.require'blockdiff'.statusline()%}`.
---@return string empty while there is no engine, but for one of others
function M.statusline()
  local s = client.status
  local share = s.progress and (" %d%%%%"):format(100 * s.progress) or ""
  local text = {
    stopped = M.backend() ~= "" and "blockdiff" or "",
    starting = "blockdiff starting" .. share,
    ready = "blockdiff",
    busy = "blockdiff writing",
    error = "blockdiff error",
  }
  local speed = s.state == "ready" and s.tokensPerSecond and (" %.1f/s"):format(s.tokensPerSecond) or ""
  local place = M.backend() ~= "" and (" (%s)"):format((M.backend():gsub("%%", "%%%%"))) or ""
  return text[s.state] .. place .. speed
end

---What stands behind the first line of a draft.
---@param session blockdiff.Session
---@return string
function M.hint(session)
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

return M
