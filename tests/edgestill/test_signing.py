"""Signed bundles: what was signed is what is there, by the key that is asked for; the field's own tool agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from typer.testing import CliRunner

from edgestill.bundle import SIGNATURE_FILE, Bundle, open_bundle, verify_files
from edgestill.cli import app
from edgestill.errors import BundleError, InputError
from edgestill.recipe import load_recipe
from edgestill.signing import PASSWORD_VARIABLE, sign_bundle, verify_signature
from tests.edgestill.test_bundle import bundle as bundle

PEM = serialization.Encoding.PEM


def write_keys(folder: Path, name: str, curve: ec.EllipticCurve | None = None, password: bytes | None = None) -> None:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    locked = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    (folder / f"{name}.pem").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    write_keys(folder, "ours")
    write_keys(folder, "theirs")
    return folder


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: str(curve.name))
def test_what_was_signed_is_verified(bundle: Bundle, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    write_keys(tmp_path, "key", curve)
    assert sign_bundle(bundle, tmp_path / "key.pem") == bundle.folder / SIGNATURE_FILE
    verify_signature(open_bundle(bundle.folder), tmp_path / "key.pub")
    verify_files(bundle)  # a signature isn't a foreign file


def test_signing_again_replaces_the_signature(bundle: Bundle, keys: Path) -> None:
    sign_bundle(bundle, keys / "theirs.pem")
    sign_bundle(bundle, keys / "ours.pem")
    verify_signature(bundle, keys / "ours.pub")


def test_a_bundle_may_move(bundle: Bundle, keys: Path, tmp_path: Path) -> None:
    sign_bundle(bundle, keys / "ours.pem")
    moved = shutil.copytree(bundle.folder, tmp_path / "elsewhere é")
    verify_signature(open_bundle(moved), keys / "ours.pub")


def test_the_fields_own_tool_reads_it(bundle: Bundle, keys: Path) -> None:
    signature = sign_bundle(bundle, keys / "ours.pem")
    words = ["verify", "key", bundle.folder, "--signature", signature, "--public_key", keys / "ours.pub"]
    done = subprocess.run([sys.executable, "-m", "model_signing", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def test_another_key_is_told(bundle: Bundle, keys: Path) -> None:
    sign_bundle(bundle, keys / "theirs.pem")
    with pytest.raises(BundleError, match="signed with another key"):
        verify_signature(bundle, keys / "ours.pub")


def test_a_forged_key_name_is_told(bundle: Bundle, keys: Path) -> None:
    """The name of the key in a signature is only a hint: who writes ours there still can't sign for us."""
    hints = []
    for name in ("ours", "theirs"):
        path = sign_bundle(bundle, keys / f"{name}.pem")
        hints.append(json.loads(path.read_text())["verificationMaterial"]["publicKey"]["hint"])
    path.write_text(path.read_text().replace(hints[1], hints[0]))
    with pytest.raises(BundleError, match="signed with another key"):
        verify_signature(bundle, keys / "ours.pub")


def test_no_signature_is_told(bundle: Bundle, keys: Path) -> None:
    with pytest.raises(BundleError, match="not signed"):
        verify_signature(bundle, keys / "ours.pub")


def test_a_changed_and_packed_again_bundle_is_told(bundle: Bundle, keys: Path) -> None:
    """Whoever changes a file can write the manifest's hashes again, but not the signature."""
    sign_bundle(bundle, keys / "ours.pem")
    manifest = bundle.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"demo"', '"omed"'))
    with pytest.raises(BundleError, match=r"isn't what was signed .*manifest\.json"):
        verify_signature(bundle, keys / "ours.pub")


@pytest.mark.parametrize("name", ["artifacts/extra", ".gitignore", "report.html"])
def test_every_file_counts(bundle: Bundle, keys: Path, name: str) -> None:
    sign_bundle(bundle, keys / "ours.pem")
    (bundle.folder / name).write_text("other")
    with pytest.raises(BundleError, match="isn't what was signed"):
        verify_signature(bundle, keys / "ours.pub")


def test_a_missing_file_is_told(bundle: Bundle, keys: Path) -> None:
    sign_bundle(bundle, keys / "ours.pem")
    (bundle.folder / "golden.jsonl").unlink()
    with pytest.raises(BundleError, match=r"golden\.jsonl"):
        verify_signature(bundle, keys / "ours.pub")


@pytest.mark.parametrize("text", ["", "{}", "not JSON", '{"dsseEnvelope": {}}', "\x00" * 100])
def test_a_damaged_signature_is_told(bundle: Bundle, keys: Path, text: str) -> None:
    (bundle.folder / SIGNATURE_FILE).write_text(text)
    with pytest.raises(BundleError, match="not a signature"):
        verify_signature(bundle, keys / "ours.pub")


def test_a_cut_signature_is_told_wherever_it_is_cut(bundle: Bundle, keys: Path) -> None:
    path = sign_bundle(bundle, keys / "ours.pem")
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        with pytest.raises(BundleError):
            verify_signature(bundle, keys / "ours.pub")


def test_a_damaged_bundle_is_not_signed(bundle: Bundle, keys: Path) -> None:
    (bundle.folder / "golden.jsonl").write_text("changed")
    with pytest.raises(BundleError, match=r"golden\.jsonl"):
        sign_bundle(bundle, keys / "ours.pem")
    assert not (bundle.folder / SIGNATURE_FILE).exists()


def test_a_key_with_a_password(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_keys(tmp_path, "locked", password=b"open sesame")
    with pytest.raises(InputError, match=PASSWORD_VARIABLE):
        sign_bundle(bundle, tmp_path / "locked.pem")
    monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
    sign_bundle(bundle, tmp_path / "locked.pem")
    verify_signature(bundle, tmp_path / "locked.pub")


def test_what_is_no_key(bundle: Bundle, keys: Path, tmp_path: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "ed.pem").write_bytes(
        other.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "text.pem").write_text("no key")
    for path in (tmp_path / "ed.pem", tmp_path / "text.pem", tmp_path / "missing.pem", keys / "ours.pub"):
        with pytest.raises(InputError, match=path.name):
            sign_bundle(bundle, path)
    for path in (tmp_path / "text.pem", tmp_path / "missing.pem", keys / "ours.pem"):
        with pytest.raises(InputError, match=path.name):
            verify_signature(bundle, path)


def test_the_commands(bundle: Bundle, keys: Path) -> None:
    run = CliRunner()
    signed = run.invoke(app, ["bundle", "sign", str(bundle.folder), "--key", str(keys / "ours.pem")])
    assert signed.exit_code == 0, signed.output
    words = ["bundle", "verify", str(bundle.folder), "--no-golden", "--json", "--public-key"]
    verified = run.invoke(app, [*words, str(keys / "ours.pub")])
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["signed"] is True


def test_a_recipe_names_its_key_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "version: 1\nname: x\ntask: text\ndata: {train: a.jsonl}\n"
        "teachers: [{kind: transformers, model: some/model}]\nstudent: {kind: pruned, layers: 1}\n"
        "bundle: {sign: key.pem}\n"
    )
    assert load_recipe(tmp_path / "recipe.yaml").bundle.sign == tmp_path / "key.pem"
