-- edit, diff and session: values in, values out.

local config = require("blockdiff.config")
local diff = require("blockdiff.diff")
local edit = require("blockdiff.edit")
local schema = require("schema")
local sessions = require("blockdiff.session")

function test_an_edit_before_a_range_moves_it_and_one_behind_does_not()
  local range = { 3, 4, 5, 2 }
  for _, case in ipairs({
    { { 0, 0, 0, 0, 1, 0 }, { 4, 4, 6, 2 } }, -- a line above
    { { 1, 0, 1, 0, 0, 0 }, { 2, 4, 4, 2 } }, -- one less
    { { 3, 0, 0, 0, 0, 2 }, { 3, 6, 5, 2 } }, -- earlier in the line
    { { 3, 1, 0, 2, 1, 3 }, { 4, 4, 6, 2 } }, -- a break in the line, three columns into the next
    { { 2, 1, 1, 1, 0, 1 }, { 2, 5, 4, 2 } }, -- joined with the line above
    { { 5, 3, 0, 1, 4, 0 }, range }, -- behind it
    { { 9, 0, 0, 0, 1, 0 }, range },
    { { 3, 4, 0, 0, 0, 1 }, nil }, -- at its start
    { { 5, 2, 0, 0, 0, 1 }, nil }, -- at its end
    { { 4, 0, 0, 0, 0, 1 }, nil },
    { { 0, 0, 9, 0, 0, 0 }, nil },
    { { 3, 0, 0, 4, 0, 0 }, nil },
  }) do
    equal(edit.move(range, edit.change(unpack(case[1]))), case[2])
  end
end

function test_the_smallest_replacement_cuts_no_character()
  for _, case in ipairs({
    { "abc", "abc", { 3, 3, "" } },
    { "abc", "axc", { 1, 2, "x" } },
    { "", "new", { 0, 0, "new" } },
    { "aa", "aaa", { 2, 2, "a" } },
    { "é", "è", { 0, 2, "è" } }, -- the same first byte
    { "xé", "xÃ©", { 1, 3, "Ã©" } }, -- the same last byte
    { "one\ntwo", "one\n2\ntwo", { 4, 4, "2\n" } },
  }) do
    equal({ edit.smallest(case[1], case[2]) }, case[3])
  end
end

function test_a_draft_is_cut_into_lines_and_kinds()
  local lines = diff.lines("ab\n\ncdé", { { 0, 4 } }, { { 4, 5 } })
  equal(lines, {
    { { "ab", settled = true, uncertain = false } },
    {},
    { { "c", settled = false, uncertain = true }, { "dé", settled = false, uncertain = false } },
  })
  equal(diff.lines("", {}, {}), { {} })
end

function test_line_breaks_become_one_kind_and_spans_follow()
  local text, settled = diff.normalize("a\r\nb\rc\r\n", { { 0, 3 }, { 3, 8 } })
  equal({ text, settled }, { "a\nb\nc\n", { { 0, 2 }, { 2, 6 } } })
end

function test_parts_of_a_draft()
  for _, case in ipairs({
    { "one two", "word", "one" },
    { " two()", "word", " two" },
    { "() end", "word", "()" },
    { "\n    x = 1", "word", "\n    x" },
    { "größe + 1", "word", "größe" },
    { "   ", "word", "   " },
    { "one\ntwo\n", "line", "one\n" },
    { "one", "line", "one" },
    { "\none\ntwo", "line", "\none" },
    { "\n", "line", "\n" },
    { "\n\nx", "line", "\n" },
    { "a\nb", "all", "a\nb" },
  }) do
    local head, rest = diff.head(case[1], case[2])
    equal({ head, head .. rest }, { case[3], case[1] })
  end
end

local function refinement(seq, more)
  local base = {
    requestId = "r", seq = seq, version = 7, hole = 0, range = { 1, 0, 1, 4 },
    text = "draft", settled = {}, uncertain = {}, step = 1, done = false,
  }
  return vim.tbl_extend("force", base, more or {})
end

local function outcome(more)
  local base = { requestId = "r", edits = { {} }, finish = "eom", syntax = "ok" }
  return vim.tbl_extend("force", base, more or {})
end

function test_stale_refinements_are_dropped()
  local session = sessions.new("r", 1, "infill", { { 1, 0, 1, 4 } })
  equal(session:refine(refinement(0), 7), "taken")
  equal(session:refine(refinement(0), 7), "stale") -- again
  equal(session:refine(refinement(3), 7), "taken")
  equal(session:refine(refinement(2), 7), "stale") -- late
  equal(session:refine(refinement(4, { requestId = "other" }), 7), "stale")
  equal(session:refine(refinement(5, { hole = 1 }), 7), "stale")
  equal(session:finish(outcome({ requestId = "other" })), false)
  session:stop()
  equal(session:refine(refinement(6), 7), "stale")
  equal(session:finish(outcome()), false)
end

function test_a_draft_for_an_older_version_is_taken_but_not_its_place()
  local session = sessions.new("r", 1, "infill", { { 1, 0, 1, 4 } })
  equal(session:follow(edit.change(0, 0, 0, 0, 1, 0)), true)
  equal(session:refine(refinement(0), 8), "taken")
  equal(session.holes[1].range, { 2, 0, 2, 4 })
  equal(session:refine(refinement(1, { version = 8, range = { 2, 0, 2, 4 } }), 8), "taken")
  equal(session:refine(refinement(2, { version = 8 }), 8), "lost")
  equal(session:is_alive(), false)
end

function test_an_answer_ends_it_only_with_all_drafts()
  local session = sessions.new("r", 1, "infill", { { 1, 0, 1, 4 }, { 3, 0, 3, 0 } })
  session:refine(refinement(0, { done = true }), 7)
  session:refine(refinement(1, { hole = 1, range = { 3, 0, 3, 0 }, done = true }), 7)
  equal(session:finish(outcome()), true)
  equal({ session.state, session:at(0, 0), session:at(2, 0), session:at(9, 0) }, { "ready", 1, 2, 1 })

  local unfinished = sessions.new("r", 1, "infill", { { 1, 0, 1, 4 } })
  equal({ unfinished:finish(outcome()), unfinished.state }, { false, "over" })
end

function test_what_is_painted_does_not_shrink_while_it_is_written()
  local session = sessions.new("r", 1, "infill", { { 1, 0, 1, 4 } })
  local function tallest(seq, text, done)
    session:refine(refinement(seq, { text = text, done = done }), 7)
    return session.holes[1].tallest
  end
  equal({ tallest(0, "a\nb\nc"), tallest(1, "a"), tallest(2, "a\nb", true) }, { 3, 3, 2 })
end

function test_the_defaults_are_those_of_the_server()
  local contract = schema.load(ROOT, "settings")
  local wanted = {}
  for section, value in pairs(contract.properties) do
    wanted[section] = {}
    for key, property in pairs(value.properties) do
      wanted[section][key] = property.default
    end
  end
  equal(config.defaults.server, wanted)
  equal(schema.check(config.defaults.server, contract), {})
end

function test_unknown_options_are_reported_and_left_out()
  config.setup({
    keys = { accept = false, acept = "<Tab>" },
    ghost = false,
    filetypes = { "zig" },
    cmd = "blockdiff-lsp",
    server = { decoding = { mode = "ar", steps = 3 } },
    debounce = 1,
  })
  local got = config.get()
  equal({ got.keys.accept, got.keys.next, got.filetypes }, { false, "<M-]>", { "zig" } })
  equal({ got.cmd, got.server.decoding.mode, got.ghost.debounce }, { nil, "ar", 150 })
  table.sort(config.problems)
  equal(config.problems, {
    "cmd must be a table, got a string",
    "ghost must be a table, got a boolean",
    "unknown option debounce",
    "unknown option keys.acept",
    "unknown option server.decoding.steps",
  })
  config.setup({ keys = false })
  equal({ config.get().keys, config.problems }, { false, {} })
end

function test_the_statusline_says_where_code_is_sent()
  local client = require("blockdiff.client")
  local status = require("blockdiff.status")
  local before = client.status
  for state, expected in pairs({ stopped = "blockdiff", busy = "blockdiff writing", error = "blockdiff error" }) do
    client.status = { state = state, model = "", device = "", message = "" }
    equal(status.statusline(), state == "stopped" and "" or expected)
    client.status.backend = "mistral at api.mistral.ai"
    equal(status.statusline(), expected .. " (mistral at api.mistral.ai)")
    equal(status.line(), state .. ", code is sent to mistral at api.mistral.ai")
  end
  client.status = before
end

function test_the_validator_finds_what_is_wrong()
  local status = schema.load(ROOT, "status")
  local good = { state = "ready", model = "m", device = "cpu", backend = "", message = "" }
  equal(schema.check(good, status), {})
  for key, value in pairs({ state = "asleep", model = 3, progress = 2, extra = 1 }) do
    equal(#schema.check(vim.tbl_extend("force", good, { [key] = value }), status), 1)
  end
  local drafts = schema.load(ROOT, "refinement")
  local place = { line = 0, character = 0 }
  local draft = {
    requestId = "r", seq = 0, hole = 0, range = { start = place, ["end"] = place }, text = "",
    settled = { { 0, 1 } }, uncertain = {}, step = 0, done = false,
  }
  equal(schema.check(draft, drafts), {})
  draft.settled = { { 0 } }
  equal(#schema.check(draft, drafts), 1)
end
