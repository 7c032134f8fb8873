"""
The conversation in the terminal, and the memory of it.

Reading order: `history` (what is kept), `conversation` (what the model sees),
`work` and `signals` (waiting without losing a keystroke), `markdown` and `screen`
(what is shown), `talk` and `asking` (a turn), `slash` (the commands), `editor` (what is
typed), `repl` (the loop).
"""
