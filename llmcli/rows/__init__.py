"""
The same commands over a million rows: crash-safe, resumable, on a cluster.

In reading order: `job` (what is asked of which file), `readers` and `writers` (rows in, rows out),
`journal` (what is known already, whatever happens), `batch` (one finished answer per distinct text),
`runner` (the whole run), `preflight` and `progress` (what the user sees of it), `ray_runner` (the same
on a cluster). `runner.run_rows` is the door.
"""
