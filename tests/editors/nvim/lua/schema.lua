-- JSON Schema, as much of it as tests/contract/ uses; anything else is an error.

local M = {}

local known = {
  ["$schema"] = true, ["$defs"] = true, ["$ref"] = true, title = true, description = true, type = true,
  required = true, additionalProperties = true, properties = true, items = true, prefixItems = true,
  minItems = true, maxItems = true, minimum = true, maximum = true, enum = true, default = true,
}

local function is_list(value)
  return type(value) == "table" and (vim.islist(value) or next(value) == nil)
end

local is = {
  object = function(value)
    return type(value) == "table" and (next(value) == nil or not vim.islist(value))
  end,
  array = is_list,
  string = function(value)
    return type(value) == "string"
  end,
  integer = function(value)
    return type(value) == "number" and value % 1 == 0
  end,
  number = function(value)
    return type(value) == "number"
  end,
  boolean = function(value)
    return type(value) == "boolean"
  end,
  null = function(value)
    return value == vim.NIL
  end,
}

local function check(value, schema, root, path, breaches)
  local function breach(text)
    breaches[#breaches + 1] = path .. ": " .. text
  end
  for keyword in pairs(schema) do
    if not known[keyword] then
      breach("the schema has an unknown keyword " .. keyword)
    end
  end
  if schema["$ref"] then
    return check(value, root["$defs"][schema["$ref"]:match("^#/%$defs/(.*)$")], root, path, breaches)
  end
  local types = type(schema.type) == "string" and { schema.type } or schema.type
  local fits = types == nil
  for _, name in ipairs(types or {}) do
    fits = fits or is[name](value)
  end
  if not fits then
    return breach("is not " .. table.concat(types, " or "))
  end
  if schema.enum and not vim.tbl_contains(schema.enum, value) then
    breach("is none of " .. table.concat(schema.enum, ", "))
  end
  if type(value) == "number" then
    if schema.minimum and value < schema.minimum or schema.maximum and value > schema.maximum then
      breach(value .. " is out of bounds")
    end
  end
  if type(value) ~= "table" then
    return
  end
  if schema.properties then
    for _, name in ipairs(schema.required or {}) do
      if value[name] == nil then
        breach("lacks " .. name)
      end
    end
    for name, item in pairs(value) do
      if schema.properties[name] then
        check(item, schema.properties[name], root, path .. "." .. name, breaches)
      elseif schema.additionalProperties == false then
        breach("has an unknown " .. name)
      end
    end
  elseif is_list(value) then
    if #value < (schema.minItems or 0) or #value > (schema.maxItems or math.huge) then
      breach("has " .. #value .. " items")
    end
    for i, item in ipairs(value) do
      local part = schema.prefixItems and schema.prefixItems[i] or schema.items
      if part then
        check(item, part, root, path .. "[" .. i .. "]", breaches)
      end
    end
  end
end

---@param value any
---@param schema table
---@return string[] breaches
function M.check(value, schema)
  local breaches = {}
  check(value, schema, schema, "$", breaches)
  return breaches
end

---@param root string of the repository
---@param name string
---@return table
function M.load(root, name)
  local lines = vim.fn.readfile(root .. "/tests/contract/" .. name .. ".json")
  return vim.json.decode(table.concat(lines, "\n"))
end

return M
