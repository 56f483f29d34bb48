"""`python -m expunge`."""

from expunge.cli import main

# A process that works beside this one reads this file too, to find what it is to do.
if __name__ == "__main__":
    main()
