"""`python -m slimtensors`: the command, where its folder is not on the path."""

from slimtensors.cli.main import main

if __name__ == "__main__":
    main()
