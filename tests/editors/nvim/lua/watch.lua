-- Runs in every Neovim under test: notes what is notified, holds all messages to the contract.

local here, root = ...
package.path = here .. "/?.lua;" .. package.path
local schema = require("schema")

_G.notices = {}
vim.notify = function(message)
  table.insert(_G.notices, message)
end

_G.breaches = {}
_G.drafts = {} -- refinements, in the order they came
local contracts = {}
for _, name in ipairs({ "infill-params", "rewrite-params", "outcome", "refinement", "status", "settings" }) do
  contracts[name] = schema.load(root, name)
end

local function hold(value, name)
  for _, breach in ipairs(schema.check(value, contracts[name])) do
    table.insert(_G.breaches, name .. " " .. breach)
  end
end

local asked = { ["blockdiff/infill"] = "infill-params", ["blockdiff/rewrite"] = "rewrite-params" }
local told = { ["blockdiff/refinement"] = "refinement", ["blockdiff/status"] = "status" }

local start = vim.lsp.rpc.start
vim.lsp.rpc.start = function(command, dispatchers, options)
  local notification = dispatchers.notification
  dispatchers.notification = function(method, params)
    if told[method] then
      hold(params, told[method])
    end
    notification(method, params)
    if method == "blockdiff/refinement" then
      vim.schedule(function() -- behind what the plugin does with it
        table.insert(_G.drafts, params)
      end)
    end
  end
  local client = start(command, dispatchers, options)
  local request = client.request
  client.request = function(method, params, callback, ...)
    if not asked[method] then
      return request(method, params, callback, ...)
    end
    hold(vim.json.decode(vim.json.encode(params)), asked[method])
    return request(method, params, function(err, result)
      if result then
        hold(result, "outcome")
      end
      callback(err, result)
    end, ...)
  end
  return client
end
