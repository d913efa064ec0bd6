"""``python -m edgestill.schemas``: write the schema files from the models."""

from __future__ import annotations

from edgestill.schemas import DOCUMENTS, FOLDER, schema_text
from edgestill.storage import write_text


def main() -> None:
    """Write one file a document, beside this module."""
    for name in DOCUMENTS:
        path = FOLDER / f"{name}.json"
        write_text(path, schema_text(name))
        print(path)


if __name__ == "__main__":
    main()
