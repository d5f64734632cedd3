"""Parts of a Markdown page that are generated: between `<!-- begin NAME -->` and `<!-- end NAME -->`."""

from pathlib import Path


def replace(page: Path, name: str, text: str) -> None:
    """Put `text` in the place of the part `name`; `ValueError` if the page has none."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no part `{name}`: put `{begin.strip()}` and `{end.strip()}` where it belongs")
    page.write_text(f"{before}{begin}{text}\n{end}{after}")
