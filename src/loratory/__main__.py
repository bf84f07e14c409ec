"""`python -m loratory` is the `loratory` command."""

from loratory.cli import main

if __name__ == "__main__":
    main()
