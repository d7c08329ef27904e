"""The language server: an editor's requests in, drafts and edits out. Never imports torch."""
