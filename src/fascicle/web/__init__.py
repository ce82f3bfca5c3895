"""Files that a browser gets: the console page and what goes round the viewer."""
