"""From a request to a prompt, and from a draft to text for the document. Nothing here needs torch.

layout      prefix, hole and suffix as one token sequence, within a budget
windows     which text around the hole, so that typing moves as little of it as possible
outline     what is far above it and matters: imports, and what encloses the hole
healing     the token cut in two at the hole
seams       where a draft ends, and how it fits in; the rules for that:
rest_of_line  where it meets the rest of the line of its hole
ending      how far it may go, and where the construct ends that it began
limit       what stays of one that the limit cut off, or that does not fit
block       where ghost text has said enough
construct   where a draft leaves the function it belongs to
prose       where it turns to talk
repetition  where it only repeats itself
nesting     which brackets and strings are open
whitespace  line endings and indentation
syntax      whether a filled hole parses; syntax_errors: where a text does not; refused: what
            grammars let pass; python_compiler: asked without running anything; fillers: neutral
            texts for a hole
"""

from blockdiff.infill.healing import HealingConstraint, PromptTokenizer
from blockdiff.infill.layout import Prompt, build_prompt
from blockdiff.infill.seams import Seams
from blockdiff.syntax.check import check, faults

__all__ = [
    "HealingConstraint",
    "Prompt",
    "Seams",
    "PromptTokenizer",
    "build_prompt",
    "check",
    "faults",
]
