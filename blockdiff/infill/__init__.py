"""From a request to a prompt, and from a draft to text for the document. Nothing here needs torch.

layout      prefix, hole and suffix as one token sequence, within a budget
windows     which text around the hole, so that typing moves as little of it as possible
healing     the token cut in two at the hole
seams       where a draft ends, and how it fits in; the rules for that:
rest_of_line  where it meets the rest of the line of its hole
ending      how far it may go, and where the construct ends that it began
limit       what stays of one that the limit cut off, or that does not fit
block       where ghost text has said enough
prose       where it turns to talk
repetition  where it only repeats itself
joint       several holes of one document
rewrite     a span to be rewritten as a prompt, and the answer as its new text
turns       the marks of a conversation

What is asked of a text itself, its brackets or whether it parses, is in `syntax/`.
"""
