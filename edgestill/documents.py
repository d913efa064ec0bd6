"""Reading back what a command wrote: one document, checked against its model."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from edgestill.errors import InputError
from edgestill.figure import Document

AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_document(path: Path, model: type[AnyDocument], *, what: str, cure: str) -> AnyDocument:
    """Return the document in a JSON file.

    Raises InputError (one line) when the file can't be read, or isn't ``what`` was expected (``a report``); it ends
    with the ``cure`` (``give the folder of a finished run``).
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); {cure}") from error
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"])
        why = f"{place}: {found['msg']}" if place else found["msg"]
        raise InputError(f"{path}: not {what} ({why}); {cure}") from error
