"""Text for a terminal: names of classes, folders and recipes may hold what would move its cursor or hide other text."""


def printable(text: str) -> str:
    """A text with its control characters, but for line breaks and tabs, and its invisible ones written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """`printable`, line breaks and tabs escaped too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
