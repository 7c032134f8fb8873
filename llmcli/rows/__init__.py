"""
The same commands over a million rows: crash-safe, resumable, on a cluster.

In reading order: `job` (what is asked of which file), `runner` (the whole run; `run_rows` is the door) and
`batch` (the two passes of a job that has an output file). Rows in: `source`, `readers`, `csv_reader`,
`json_reader`, `parquet`. Rows out: `columns`, `writers`, `output_file`; `window` puts answers in order where
there is no output file. What is known: `journal`, `answers`, `lock`. Who answers: `workers`, `ray_runner`.
What the user sees of it: `preflight`, `tally`, `progress`.
"""
