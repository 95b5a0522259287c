"""Tables in text files: sections headed `[name]`, rows of fields parted by " | ", comments after "#"."""

from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE.parent / "data"

Tables = dict[str, list[list[str]]]


def read(name: str) -> Tables:
    tables: Tables = {}
    section = ""
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            assert section not in tables, f"{name}: section {section} twice"
            tables[section] = []
        elif line and not line.startswith("#"):
            tables[section].append([field.strip() for field in line.split("|")])
    return tables
