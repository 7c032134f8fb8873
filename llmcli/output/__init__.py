"""What a terminal is shown: harmless text, tables, the status line. Knows no command and no task."""
