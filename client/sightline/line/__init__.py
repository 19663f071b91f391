"""The line: pictures from a source, each inspected, each result to every sink exactly once and in order."""
