"""Text for a terminal, and numbers as it is shown.

Names of classes, folders and recipes may hold what would move a terminal's cursor or hide other text.
"""


def printable(text: str) -> str:
    """A text with its control characters, but for line breaks and tabs, and its invisible ones written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """`printable`, line breaks and tabs escaped too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def eps_words(eps: float) -> str:
    """An eps or a step size: a short decimal as it is, a whole number of grey levels as k/255."""
    if abs(eps - round(eps, 3)) < 1e-9:
        return f"{eps:.3f}".rstrip("0").rstrip(".") or "0"
    levels = eps * 255
    if abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"
