"""The report of a finished run: figures, tables, plots and examples, as HTML and Markdown."""
