-- For `vim.lsp.config` and `vim.lsp.enable("blockdiff")`.
return require("blockdiff.client").lsp_config()
