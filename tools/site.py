"""A hook of MkDocs: links to files of the repository work in the site too, anchors are those of a code host, nothing is fetched.

Pages link to `../src/…` as they would on any code host. Each such file becomes a page `source/PATH` of the site, outside the
navigation: Markdown as it is, anything else as a listing. A link that leads nowhere is left to MkDocs, which refuses it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

LINK = re.compile(r"(?<=\]\()(?!\w+:)[^)#\s]+")
FETCHED = re.compile(r"""<(?:script|img|iframe|link|source|video)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^"']+""")
SOURCE = "source/"
LANGUAGES = {".py": "python", ".smk": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
FENCE = "``````"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make anchors of headings as code hosts do, so that a link within a page works in both places."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file of the repository that pages link to, and for what those link to."""
    pending = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while pending:
        uri, text = pending.pop()
        for target in LINK.findall(text):
            found = place(origin(uri, config).parent / target, config)
            if found is not None and found.startswith(SOURCE) and found not in files.src_uris:
                content = listing(origin(found, config), config)
                files.append(File.generated(config, found, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
                pending.append((found, content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where files are in the site."""
    uri = page.file.src_uri

    def relative(match: re.Match[str]) -> str:
        found = place(origin(uri, config).parent / match[0], config)
        return match[0] if found is None else posixpath.relpath(found, posixpath.dirname(uri))

    return LINK.sub(relative, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Refuse a page that would fetch something from elsewhere when it is read.

    Raises:
        PluginError: if there is such a page.
    """
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch from elsewhere: {found[0]}")


def origin(uri: str, config: MkDocsConfig) -> Path:
    """The file of the repository that a page shows."""
    if uri.startswith(SOURCE):
        return root(config) / uri.removeprefix(SOURCE).removesuffix(".md")
    return Path(config.docs_dir) / uri


def place(path: Path, config: MkDocsConfig) -> str | None:
    """Where a file of the repository is in the site; None where there is no such file."""
    path, docs = path.resolve(), Path(config.docs_dir).resolve()
    if not path.is_file() or not path.is_relative_to(root(config)):
        return None
    return path.relative_to(docs).as_posix() if path.is_relative_to(docs) else f"{SOURCE}{path.relative_to(root(config)).as_posix()}.md"


def listing(path: Path, config: MkDocsConfig) -> str:
    """The page that shows a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    name = path.relative_to(root(config)).as_posix()
    return f"# `{name}`\n\n{FENCE}{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{FENCE}\n"


def root(config: MkDocsConfig) -> Path:
    """The repository."""
    return Path(config.config_file_path).resolve().parent
