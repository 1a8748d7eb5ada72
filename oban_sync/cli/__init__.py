"""The `oban-sync` command. Alone with `settings` it reads the environment, and alone it prints."""
