"""Documents as earlier versions wrote them, without checksums, and with other values than they were written with."""

import json

from corral.checksums import checksum


def earlier(content):
    """A document's content, and of those inside it, in the form that had no checksum."""
    if isinstance(content, list):
        return [earlier(item) for item in content]
    if not isinstance(content, dict):
        return content
    kept = {key: earlier(item) for key, item in content.items() if key not in ("sha256", "arrays_sha256", "edited")}
    if isinstance(kept.get("format"), str):
        kept["format"] = kept["format"].removesuffix("-2") + "-1"
    return kept


def make_earlier(path):
    """Write a document's file again as an earlier version did."""
    path.write_text(json.dumps(earlier(json.loads(path.read_text())), indent=2))


def write_with(path, **fields):
    """A document's file with other values, as if it had been written with them."""
    content = json.loads(path.read_text()) | fields
    del content["sha256"]
    path.write_text(json.dumps(content | {"sha256": checksum(content)}))
