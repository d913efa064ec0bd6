"""Signing a bundle by OpenSSF's model-signing: ``model.sig`` beside the manifest, over the hash of every file.

Keys are elliptic-curve ones (P-256, P-384, P-521) in PEM. The signature is a sigstore bundle with an in-toto statement,
as ``model_signing sign`` writes it, and ``model_signing verify`` reads it.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from edgestill.bundle import SIGNATURE_FILE, Bundle, verify_files
from edgestill.errors import BundleError, InputError, MissingDependencyError
from edgestill.storage import whole_file

PASSWORD_VARIABLE: Final = "EDGESTILL_SIGNING_PASSWORD"
"""Holds the password of a private key that has one: no password on a command line or in a file."""

_MAX_SIGNATURE_BYTES: Final = 64 << 20


def sign_bundle(bundle: Bundle, private_key: Path) -> Path:
    """Sign a bundle whose files are intact; return the signature's path. One that is there is replaced.

    Raises BundleError for files that aren't the manifest's, InputError for a key that can't be used,
    MissingDependencyError without model-signing.
    """
    verify_files(bundle)
    signer = _signer(private_key)
    target = bundle.folder / SIGNATURE_FILE
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / SIGNATURE_FILE
        signer.set_hashing_config(_hashed_files()).sign(bundle.folder, made)
        with whole_file(target) as written:
            written.write_bytes(made.read_bytes())
    return target


def check_private_key(private_key: Path) -> None:
    """See that a key can sign, before hours of work end in a bundle that can't be signed. Raises as sign_bundle."""
    _signer(private_key)


def verify_signature(bundle: Bundle, public_key: Path) -> None:
    """Check that a bundle was signed by a key's owner and is what was signed, file by file.

    Raises BundleError for one that isn't, InputError for a key that can't be used, MissingDependencyError without
    model-signing.
    """
    model_signing = _library()
    try:
        config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{public_key}: no public key of an elliptic curve in PEM ({_line(error)})") from error
    signature = bundle.folder / SIGNATURE_FILE
    if not signature.is_file():
        raise BundleError(f"{bundle.folder}: not signed; edgestill bundle sign does that")
    if signature.stat().st_size > _MAX_SIGNATURE_BYTES:
        raise BundleError(f"{signature}: larger than {_MAX_SIGNATURE_BYTES} bytes; that is no signature")
    # What the signature itself leaves out isn't taken from it: every file counts.
    config.set_hashing_config(_hashed_files())
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints a warning of its own there
            config.verify(bundle.folder, signature)
    except Exception as error:  # a signature comes from outside: whatever its parser raises, it isn't one
        raise BundleError(f"{signature}: {_why(error)}") from error


def _why(error: Exception) -> str:
    text = _line(error)
    if "Signature mismatch" in text:
        return f"the bundle isn't what was signed ({text.partition('Signature mismatch: ')[2]})"
    if type(error).__name__ == "InvalidSignature" or "Key mismatch" in text:
        return "signed with another key"
    return f"not a signature that can be verified ({text or type(error).__name__})"


def _signer(private_key: Path) -> Any:
    password = os.environ.get(PASSWORD_VARIABLE)
    try:
        return (
            _library()
            .signing.Config()
            .use_elliptic_key_signer(private_key=private_key, password=None if password is None else password.encode())
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        hint = f"; ${PASSWORD_VARIABLE} holds its password" if "password" in str(error).lower() else ""
        raise InputError(f"{private_key}: no private key of an elliptic curve in PEM ({_line(error)}){hint}") from error


def _hashed_files() -> Any:
    """Return the library's hashing of every file but the signature; links are errors."""
    return _library().hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)


def _library() -> Any:
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingDependencyError(f"signing needs model-signing ({error}): pip install 'edgestill[sign]'") from error
    return model_signing


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
