"""`python -m monstera.cli`."""

from monstera.cli import main

if __name__ == "__main__":
    main()
