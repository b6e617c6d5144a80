complete --keep-order --exclusive --command plumbd --arguments "(PLUMBD_COMPLETE=fish plumbd -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
