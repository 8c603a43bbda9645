"""The package's long description: README, with links that work where README is shown alone.

README links to files beside it, which works in a clone and on any host of the repository. A package index has README
without these files. There each link begins with the address `Source` of [project.urls]; where pyproject.toml has none,
because the repository is nowhere public, a link's words stay without the link and a picture is left out.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def for_index(text: str, source: str | None) -> str:
    """A text with its relative links leading to the repository at `source`, or without them."""

    def moved(found: re.Match[str]) -> str:
        if re.match(r"[a-z]+:|#", found["target"]):
            return found[0]
        if source is None:
            return "" if found["picture"] else found["words"]
        kind = "raw" if found["picture"] else "blob"
        return f"{found['picture']}[{found['words']}]({source.rstrip('/')}/{kind}/HEAD/{found['target']})"

    return LINK.sub(moved, text)


class LongDescription(MetadataHookInterface):
    """What hatchling calls for a dynamic `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the long description."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, source)}
