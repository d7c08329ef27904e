-- One request and its drafts: which messages it takes, and where its holes are by now.

local diff = require("blockdiff.diff")
local edit = require("blockdiff.edit")

---@class blockdiff.Hole
---@field range blockdiff.Range what the draft would replace
---@field text string lines separated by "\n"
---@field settled blockdiff.Span[]
---@field uncertain blockdiff.Span[]
---@field step integer
---@field done boolean
---@field tallest integer most lines of any draft so far: what is painted does not shrink meanwhile

---@class blockdiff.Refinement a `blockdiff/refinement`, its positions already in bytes
---@field requestId string
---@field seq integer
---@field version? integer
---@field hole integer
---@field range blockdiff.Range
---@field text string
---@field settled blockdiff.Span[]
---@field uncertain blockdiff.Span[]
---@field step integer
---@field done boolean

---@class blockdiff.Session
---@field id string of the request
---@field buf integer
---@field kind "infill"|"rewrite"
---@field holes blockdiff.Hole[]
---@field state "running"|"ready"|"over"
---@field seq integer of the last refinement taken
---@field outcome? table the answer
---@field widest integer cells of the first line of any draft so far: the hint does not move back meanwhile
local Session = {}
Session.__index = Session

local M = {}

---@param id string
---@param buf integer
---@param kind "infill"|"rewrite"
---@param ranges blockdiff.Range[] in the order they are sent in
---@return blockdiff.Session
function M.new(id, buf, kind, ranges)
  local holes = {}
  for i, range in ipairs(ranges) do
    holes[i] = { range = range, text = "", settled = {}, uncertain = {}, step = 0, done = false, tallest = 1 }
  end
  local session = { id = id, buf = buf, kind = kind, holes = holes, state = "running", seq = -1, widest = 0 }
  return setmetatable(session, Session)
end

---Take a refinement. "stale" was dropped; "lost": the server writes elsewhere than we think.
---@param refinement blockdiff.Refinement
---@param version integer of the buffer as it stands
---@return "taken"|"stale"|"lost"
function Session:refine(refinement, version)
  local hole = self.holes[refinement.hole + 1]
  if self.state ~= "running" or refinement.requestId ~= self.id or refinement.seq <= self.seq or not hole then
    return "stale"
  end
  -- A draft for an older version is still good: the edit since then touched no hole, or we were over.
  if refinement.version == version and not edit.same(refinement.range, hole.range) then
    self.state = "over"
    return "lost"
  end
  self.seq = refinement.seq
  hole.text, hole.settled, hole.uncertain =
    diff.normalize(refinement.text, refinement.settled, refinement.uncertain)
  hole.step, hole.done = refinement.step, refinement.done
  local _, breaks = hole.text:gsub("\n", "\n")
  hole.tallest = hole.done and breaks + 1 or math.max(hole.tallest, breaks + 1)
  return "taken"
end

---Take the answer. False if there is nothing to accept or nobody waits for it.
---@param outcome table
---@return boolean
function Session:finish(outcome)
  if self.state ~= "running" or outcome.requestId ~= self.id then
    return false
  end
  self.outcome, self.state = outcome, "ready"
  for _, hole in ipairs(self.holes) do
    if not hole.done then
      self.state = "over"
    end
  end
  if #outcome.edits == 0 then
    self.state = "over"
  end
  return self.state == "ready"
end

---Follow an edit of the buffer. False if it touched a hole: then all is over.
---@param change blockdiff.Change
---@param own? blockdiff.Hole a hole whose text we change ourselves
---@return boolean
function Session:follow(change, own)
  if self.state == "over" then
    return false
  end
  for _, hole in ipairs(self.holes) do
    if hole ~= own then
      local range = edit.move(hole.range, change)
      if not range then
        self.state = "over"
        return false
      end
      hole.range = range
    end
  end
  return true
end

---End it: whatever arrives later is stale.
function Session:stop()
  self.state = "over"
end

---@return boolean
function Session:is_alive()
  return self.state ~= "over"
end

---Index of the hole at a place, or of the first behind it, or of the first of all.
---@param row integer
---@param col integer
---@return integer
function Session:at(row, col)
  local best, first
  for i, hole in ipairs(self.holes) do
    local r = hole.range
    local ends_before = r[3] < row or (r[3] == row and r[4] < col)
    local function earlier(j)
      local other = j and self.holes[j].range
      return not other or r[1] < other[1] or (r[1] == other[1] and r[2] < other[2])
    end
    if not ends_before and earlier(best) then
      best = i
    end
    if earlier(first) then
      first = i
    end
  end
  return best or first
end

return M
