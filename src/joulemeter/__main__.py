"""`python -m joulemeter`."""

from joulemeter.cli import main

if __name__ == "__main__":
    main()
