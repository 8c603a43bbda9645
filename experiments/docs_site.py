"""What the site of `make docs` adds to the pages of docs/: a hook of MkDocs.

- Files of the repository that a page links to (tables of results, scripts, SECURITY.md) are on the site below
  `repository/`, so that a link that works in a clone works there too. Notebooks are shown with their outputs, other
  files that are no Markdown as code.
- Formulas between dollars become MathML, which browsers draw without a script.
- `<!-- commands -->` becomes the description of every command and option.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)#\s]+)(?P<after>#[^)\s]*)?(?=\))")
FOLDER = re.compile(r"(?<!!)\[(?P<words>[^\[\]]*)\]\((?P<target>[^)#\s:]+)\)")
BLOCK = re.compile(r"^(?P<ticks>```+)[^\n]*\n.*?^(?P=ticks)[ \t]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(rf"{BLOCK.pattern}|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">(?P<text>.*?)</(?P=tag)>', re.DOTALL)
COMMANDS = "<!-- commands -->"
PLACE = "repository/"
# How typer calls the values of options, and what a reader is told.
VALUES = (
    (r"<list\[(?:str|int|path|Path)\]>", "VALUE ..."),
    (r"<(?:int|float)(?: range)?>", "NUMBER"),
    (r"<path>", "PATH"),
    (r"<str>", "TEXT"),
    (r"<(\S+)>", r"\1"),
)


def outside_code(text: str, change: Callable[[str], str], code: re.Pattern[str] = CODE) -> str:
    """A text with a change in all of it but its code."""
    parts, place = [], 0
    for found in code.finditer(text):
        parts += [change(text[place : found.start()]), found[0]]
        place = found.end()
    return "".join([*parts, change(text[place:])])


def links(text: str) -> Iterator[str]:
    """The relative targets of a page's links and pictures, code aside."""
    found: list[str] = []

    def seen(part: str) -> str:
        found.extend(match["target"] for match in LINK.finditer(part) if "://" not in match["target"])
        return part

    outside_code(text, seen)
    yield from (target for target in found if not target.startswith("mailto:"))


def page_of(path: Path, root: Path = ROOT) -> str:
    """Where a file of the repository is on the site, from docs/ on."""
    inside = path.relative_to(root).as_posix()
    if inside.startswith("docs/"):
        return inside.removeprefix("docs/")
    return PLACE + (inside if path.suffix in (".md", ".png", ".svg") else f"{inside}.md")


def file_of(uri: str, root: Path = ROOT) -> Path:
    """The file of the repository that a page of the site is made of: the other way round."""
    if not uri.startswith(PLACE):
        return root / "docs" / uri
    path = root / uri.removeprefix(PLACE)
    return path if path.is_file() else path.with_suffix("")


def linked_files(pages: list[Path], root: Path = ROOT) -> list[Path]:
    """The files outside of docs/ that pages link to, and that those link to in turn."""
    found: list[Path] = []
    ahead = list(pages)
    while ahead:
        page = ahead.pop()
        for target in links(shown(page, root)):
            path = (page.parent / target).resolve()
            inside = path.is_file() and path.is_relative_to(root) and not path.is_relative_to(root / "docs")
            if inside and path not in found:
                found.append(path)
                ahead += [path] * (path.suffix in (".md", ".ipynb"))
    return sorted(found)


def with_links(text: str, file: Path, root: Path = ROOT) -> str:
    """A page's text with the links that lead into the repository leading to where the site has it."""
    here = posixpath.dirname(page_of(file, root))

    def moved(match: re.Match[str]) -> str:
        path = (file.parent / match["target"]).resolve()
        if "://" in match["target"] or not path.is_relative_to(root):
            return match[0]
        return f"{match['before']}{posixpath.relpath(page_of(path, root), here or '.')}{match['after'] or ''}"

    def without_folders(match: re.Match[str]) -> str:
        # A folder has no page: the words stay.
        return match["words"] if (file.parent / match["target"]).is_dir() else match[0]

    text = outside_code(text, lambda part: FOLDER.sub(without_folders, part), BLOCK)
    return outside_code(text, lambda part: LINK.sub(moved, part))


def shown(path: Path, root: Path = ROOT) -> str:
    """A file of the repository as a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return notebook(text)
    return f"# {path.relative_to(root).as_posix()}\n\n````{path.suffix.lstrip('.')}\n{text}````\n"


def notebook(text: str) -> str:
    """A notebook as a page: its words, its code, and what the code printed and drew."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                picture = "".join(data["image/png"]).strip()
                parts.append(f'<img alt="What the code above draws" src="data:image/png;base64,{picture}">')
            elif printed := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{printed}\n```")
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Every command of the command line, as Markdown."""
    import typer
    from typer.main import get_command

    from corral.cli.commands import app

    made: Any = get_command(app)
    parts = []
    for name, command in sorted(made.commands.items()):
        if command.hidden:
            continue
        context = typer.Context(command, info_name=f"corral {name}")
        parts.append(f"### corral {name}\n\n{one_line(command.help)}\n\n`{command.get_usage(context)[7:]}`\n")
        rows = [row for parameter in command.params if (row := option_row(parameter, context))]
        parts.append("| option | meaning |\n| --- | --- |\n" + "".join(rows))
        if command.epilog:
            parts.append(f"`{command.epilog.removeprefix('Example: ')}`\n")
    return "\n".join(parts)


def option_row(parameter: Any, context: Any) -> str:
    """A line of the table of a command's options."""
    record = None if getattr(parameter, "hidden", False) else parameter.get_help_record(context)
    if record is None:
        return ""
    words, meaning = (one_line(text) for text in record)
    for kind, name in VALUES:
        words = re.sub(kind, name, words)
    # Bounds that only keep out what no machine has.
    meaning = re.sub(r"(?:; |(?<=\[))[-\d.]*(?:<=)?x<=\d{8,}(?:\.0)?", "", meaning).replace(" []", "")
    words, meaning = (text.replace("|", "\\|") for text in (words, meaning))
    return f"| `{words}` | {meaning} |\n"


def one_line(text: str | None) -> str:
    """Words with one space between them."""
    return " ".join((text or "").split())


def mathml(page: str) -> str:
    """A page with its formulas as MathML."""
    from html import unescape

    from latex2mathml.converter import convert

    def drawn(match: re.Match[str]) -> str:
        text = unescape(match["text"]).strip()
        return convert(text[2:-2].strip(), display="block" if match["tag"] == "div" else "inline")

    return FORMULA.sub(drawn, page)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: the files of the site."""
    from mkdocs.structure.files import File

    pages = [Path(file.abs_src_path) for file in files.documentation_pages()]
    named = [file_of(entry) for entry in re.findall(r"repository/[\w./-]+", str(config.nav))]
    for path in linked_files([*pages, *named]) + named:
        if files.get_file_from_path(page_of(path)) is None:
            if path.suffix in (".png", ".svg"):
                files.append(File.generated(config, page_of(path), abs_src_path=str(path)))
            else:
                files.append(File.generated(config, page_of(path), content=shown(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs: a page before it is converted."""
    file = file_of(page.file.src_uri)
    if file.suffix in (".md", ".ipynb"):
        markdown = with_links(markdown, file)
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs: a page after it was converted."""
    return mathml(html) if "arithmatex" in html else html
