"""What one level of indentation is, by `.editorconfig`."""

from __future__ import annotations

from pathlib import Path

from editorconfig import EditorConfigError, get_properties


def indentation(path: Path | None) -> str:
    """A tab or some spaces; empty where `.editorconfig` says nothing or cannot be read."""
    if path is None:
        return ""
    try:
        properties = get_properties(str(path))
    except (EditorConfigError, OSError, UnicodeError):
        return ""
    style, size = properties.get("indent_style"), properties.get("indent_size", "")
    if style == "tab":
        return "\t"
    size = properties.get("tab_width", "") if size == "tab" else size
    return " " * int(size) if style == "space" and size.isdecimal() and 0 < int(size) <= 16 else ""
