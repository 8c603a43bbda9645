"""The page of a table of a paper, as HTML and as Markdown, out of cells that are text already."""
