"""
Where the program starts: `llm`, `llmcli` and `python -m llmcli`.

Importing the program takes a moment. Ctrl-C in that moment ends it as it ends any program, without Python's
traceback; from then on the error boundary answers it.
"""

import signal


def main() -> None:
    """Import the program, then run it."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # ignored, in a script's `llm … &`
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from llmcli.cli.main import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
