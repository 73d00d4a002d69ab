"""`python -m d2v`, the same program as `d2v`."""

from d2v.cli import main

if __name__ == "__main__":
    main()
