"""`python -m oban_sync` is `oban-sync`."""

from oban_sync.cli.main import main

if __name__ == "__main__":
    main()
