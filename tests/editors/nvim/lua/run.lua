-- A plain runner: nvim -l run.lua PLUGIN ROOT FILE... ; every global of a file named test_* is a test.

local plugin, root = arg[1], arg[2]
local here = vim.fs.dirname(arg[0])
package.path = ("%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;%s"):format(plugin, plugin, here, package.path)
vim.opt.runtimepath:prepend(plugin)
_G.ROOT = root

---@param got any
---@param wanted any
function _G.equal(got, wanted)
  if not vim.deep_equal(got, wanted) then
    error(("got %s, wanted %s"):format(vim.inspect(got), vim.inspect(wanted)), 2)
  end
end

local failed = 0
for i = 3, #arg do
  local tests = {}
  local env = setmetatable({}, {
    __index = _G,
    __newindex = function(_, name, value)
      if name:match("^test_") then
        tests[#tests + 1] = { name, value }
      else
        rawset(_G, name, value)
      end
    end,
  })
  setfenv(assert(loadfile(arg[i])), env)()
  for _, test in ipairs(tests) do
    local ok, why = xpcall(test[2], debug.traceback)
    failed = failed + (ok and 0 or 1)
    print((ok and "ok   " or "FAIL ") .. vim.fs.basename(arg[i]) .. " " .. test[1])
    if not ok then
      print(why)
    end
  end
end
os.exit(failed == 0 and 0 or 1)
