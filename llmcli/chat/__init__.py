"""
The conversation in the terminal, and the memory of it.

Reading order: `history` (what is kept), `conversation` (what the model sees),
`work` and `signals` (waiting without losing a keystroke), `markdown` and `screen`
(what is shown), `editor` (what is typed), `slash` (the commands), `repl` (the loop).
"""
