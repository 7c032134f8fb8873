"""
The doors: one thin module per command, and the one place that prints errors and exits.

How a command is found: `main.COMMANDS` names its module, its section in `llm --help` and its help
line, so that a listing imports no command. The module is imported when the command is called, and
defines `app`, a `typer.Typer` made by `door.new_app` (see there). Every template is a command too
(`text` builds it); `main.COMMANDS` does not know them.

Reading order: `main`, `boundary` (errors, exit codes), `environment` (streams), `door` and `coerce` (what a
command is made of), `options`; then one call of a text command: `text`, `running`, `inputs`, `opening`,
`results`, `tally`.
"""
