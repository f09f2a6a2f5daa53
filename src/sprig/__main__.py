"""`python -m sprig`: the same as the command `sprig`."""

from sprig.cli.main import main

if __name__ == "__main__":
    main()
