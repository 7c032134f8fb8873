"""`python -m llmcli` is the same program as `llm`."""

from llmcli.cli.main import main

if __name__ == "__main__":
    main()
