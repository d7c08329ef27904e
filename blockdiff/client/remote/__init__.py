"""Backends of others behind the interface of our own engine: nothing here imports torch.

options     which backend, where, and what of it is believed
allowed     hosts that the user lets source text go to
keys        where the key of a backend comes from
pieces      text counted without the model's tokenizer
around      what of a request is sent
fim         the marks of each family of models
calls       what is posted, and what comes back
llamacpp, ollama, mistral, inception, openai   the wire form of each
connection  one HTTP request: retries, a stream of JSON, errors; refusals: a server's own words
turns       a newer completion takes the place of an older one
answer      from what comes in to the text of a hole
client      the interface itself
"""
