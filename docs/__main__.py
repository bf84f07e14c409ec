"""`python -m docs` writes the generated pages and checks the links of all pages; `--check` only compares."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from loratory.config import config_reference, config_schema, schema_to_json
from loratory.evaluation.results import results_schema

ROOT = Path(__file__).resolve().parents[1]
GENERATED: Mapping[str, Callable[[], str]] = {
    "docs/config.md": config_reference,
    "docs/config.schema.json": lambda: schema_to_json(config_schema()),
    "docs/evaluation.schema.json": lambda: schema_to_json(results_schema()),
}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


def stale_pages() -> list[str]:
    """Sentences about generated pages that are not what the code would write."""
    faults = []
    for name, make in GENERATED.items():
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != make():
            faults.append(f"{name}: not what the code says; run: make docs")
    return faults


def broken_links() -> list[str]:
    """Sentences about links between our pages that lead nowhere; web addresses are not followed."""
    faults = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in LINK.findall(text):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (page.parent / file) if file else page
            if not target.exists():
                faults.append(f"{page.relative_to(ROOT)}: link to {link}, which does not exist")
            elif anchor and anchor not in _anchors(target):
                faults.append(f"{page.relative_to(ROOT)}: link to {link}, which has no such heading")
    return faults


def _anchors(page: Path) -> set[str]:
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def main() -> int:
    """Write or compare, check links, and return the exit code."""
    if "--check" not in sys.argv[1:]:
        for name, make in GENERATED.items():
            (ROOT / name).write_text(make(), encoding="utf-8")
            print(f"wrote {name}")
    faults = stale_pages() + broken_links()
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
