"""Where nothing is completed while typing, as the settings say."""

from __future__ import annotations

from blockdiff.errors import InvalidRequest
from blockdiff.syntax.grammars import language_of
from blockdiff.syntax.region import Region, region_at
from blockdiff.system.ignored import git_spec, is_pattern
from lsp_server.document import Document
from lsp_server.settings import InlineSettings
from lsp_server.uris import files_of


class Exclusions:
    """Languages, files and places in a text; of the globs, those that can be read."""

    def __init__(self, settings: InlineSettings) -> None:
        self._settings = settings
        self._languages = {language_of("", name) for name in settings.disabled_languages}
        good = [glob for glob in settings.disabled_globs if is_pattern(glob)]
        self._files = git_spec(map(_anywhere, good))

    @staticmethod
    def check(settings: InlineSettings) -> None:
        """Raises InvalidRequest for globs that cannot be read."""
        bad = [glob for glob in settings.disabled_globs if not is_pattern(glob)]
        if bad:
            raise InvalidRequest(
                f"disabledGlobs: {', '.join(map(repr, bad))} is no pattern",
                "write it as in a .gitignore, such as *.md or docs/**",
            )

    def exclude(self, document: Document) -> bool:
        """Whether a document is of such a language, or such a file by any of its names."""
        if language_of("", document.language) in self._languages:
            return True
        names = [path.as_posix() for path in files_of(document.uri)]
        return any(self._files.match_file(name.lstrip("/")) for name in names)

    def region(self, document: Document, at: int) -> Region:
        """What an offset lies in, if that is excluded; else CODE."""
        settings = self._settings
        if settings.in_comments and settings.in_strings:
            return Region.CODE  # nobody asks: do not parse
        found = region_at(document.text, at, document.language)
        is_off = {Region.COMMENT: not settings.in_comments, Region.STRING: not settings.in_strings}
        return found if is_off.get(found) else Region.CODE


def _anywhere(glob: str) -> str:
    """A glob with a slash fits below any folder, not only at the root of the disk."""
    mark, plain = ("!", glob[1:]) if glob.startswith("!") else ("", glob)
    return f"{mark}{plain}" if plain.startswith("/") else f"{mark}**/{plain}"
