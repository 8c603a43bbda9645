"""What a notebook shows: objects by a short line and by a small table; and whether a stream is a notebook's."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape


class Shown:
    """An object whose `repr` is one line and that a notebook shows as a table, both of what `_shown` says."""

    def _shown(self) -> tuple[str, Mapping[str, object]]:
        """What it is of, and facts in words; by their names a subclass takes out or changes one."""
        raise NotImplementedError  # abstract

    def __repr__(self) -> str:
        title, facts = self._shown()
        return f"{type(self).__name__}({title}: {', '.join(map(str, facts.values()))})"

    def _repr_html_(self) -> str:
        title, facts = self._shown()
        return f"<b>{type(self).__name__} {escape(title)}</b>{table_html([fact] for fact in facts.values())}"


def table_html(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Rows of cells as an HTML table, the texts escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def is_kernels(stream: object) -> bool:
    """Whether a stream is the one that a Jupyter kernel shows below a cell, which has no cursor but honours \\r."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"
