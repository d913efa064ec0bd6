"""``python -m edgestill.cli``: the command line without its installed script."""

from edgestill.cli import main

if __name__ == "__main__":
    main()
