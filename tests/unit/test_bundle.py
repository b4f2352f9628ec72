"""Attack stories: what is not exactly as the manifest lists it is refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import MODEL_FILES, manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import bundle as bundles
from edge.bundle import Bundle, in_memory, pack, write
from edge.errors import BundleError
from edge.manifest import FORMAT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle", manifest(), MODEL_FILES).path


def tar_of(folder: Path) -> Path:
    """The folder as a tar, without asking `pack` whether that is a good idea."""
    archive = folder.parent / "raw.tar"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            tar.add(file, file.relative_to(folder).as_posix())
    return archive


def refused(path: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        Bundle.open(path)
    assert path.name in str(caught.value)


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    file = folder / "manifest.json"
    file.write_bytes(msgspec.json.encode({**msgspec.json.decode(file.read_bytes()), **changes}))


def flip_one_byte(folder: Path) -> None:
    data = bytearray(MODEL_FILES["models/a.onnx"])
    data[17] ^= 1
    (folder / "models/a.onnx").write_bytes(data)


def truncate_a_file(folder: Path) -> None:
    (folder / "models/a.onnx").write_bytes(MODEL_FILES["models/a.onnx"][:-1])


def lengthen_a_file(folder: Path) -> None:
    (folder / "models/a.onnx").write_bytes(MODEL_FILES["models/a.onnx"] + b"!")


def swap_two_files(folder: Path) -> None:
    (folder / "models/a.onnx").rename(folder / "aside")
    (folder / "models/b.tflite").rename(folder / "models/a.onnx")
    (folder / "aside").rename(folder / "models/b.tflite")


def lose_a_file(folder: Path) -> None:
    (folder / "models/b.tflite").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "models/extra.py").write_text("print('hello')")


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_the_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes()[:-40])


def nest_the_manifest_deeply(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"[" * 100_000)


def list_a_path_out_of_the_bundle(folder: Path) -> None:
    files = msgspec.json.decode((folder / "manifest.json").read_bytes())["files"]
    rewrite_manifest(folder, files={**files, "../../etc/passwd": {"size": 1, "sha256": "00"}})


def come_from_the_future(folder: Path) -> None:
    rewrite_manifest(folder, format="edgewright-bundle/v9")


def require_the_unknown(folder: Path) -> None:
    rewrite_manifest(folder, requires=["telepathy"])


def require_nonsense(folder: Path) -> None:
    rewrite_manifest(folder, requires=7)


def name_an_unlisted_model(folder: Path) -> None:
    variants = msgspec.json.decode((folder / "manifest.json").read_bytes())["variants"]
    rewrite_manifest(folder, variants=[{**variants[0], "file": "/bin/sh"}])


@pytest.mark.parametrize("form", ["directory", "tar"])
@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (flip_one_byte, "models/a.onnx does not have its listed SHA-256"),
        (truncate_a_file, "models/a.onnx has 639 bytes"),
        (lengthen_a_file, "models/a.onnx has 641 bytes or more where 640 are listed"),
        (swap_two_files, "does not have its listed SHA-256"),
        (lose_a_file, "models/b.tflite is missing"),
        (add_a_file, "models/extra.py is not listed"),
        (lose_the_manifest, "no manifest.json"),
        (cut_the_manifest, "manifest.json: Input data was truncated"),
        (nest_the_manifest_deeply, "manifest.json: .*recursion"),
        (list_a_path_out_of_the_bundle, "../../etc/passwd is missing"),
        (come_from_the_future, "format 'edgewright-bundle/v9'; this version reads"),
        (require_the_unknown, "needs telepathy, .* upgrade it"),
        (require_nonsense, "manifest.json"),
        (name_an_unlisted_model, "names /bin/sh, which `files` does not list"),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused(
    folder: Path, attack: Callable[[Path], None], words: str, form: str
) -> None:
    attack(folder)
    refused(folder if form == "directory" else tar_of(folder), words)


def test_what_is_changed_after_opening_is_noticed_when_it_is_read(folder: Path) -> None:
    opened = Bundle.open(folder)
    flip_one_byte(folder)
    with pytest.raises(BundleError, match="SHA-256"):
        opened.read("models/a.onnx")
    (folder / "models/a.onnx").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        opened.read("models/a.onnx")
    with pytest.raises(BundleError, match="is not listed"):
        opened.read("manifest.json")


def test_a_folder_with_links_or_pipes_is_refused(folder: Path, tmp_path: Path) -> None:
    model = folder / "models/a.onnx"
    model.rename(tmp_path / "same bytes")
    model.symlink_to(tmp_path / "same bytes")
    with pytest.raises(BundleError, match="holds no links"):
        Bundle.open(folder)
    model.unlink()
    os.mkfifo(model)
    with pytest.raises(BundleError, match="neither a file nor a folder"):
        Bundle.open(folder)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("evil", "words"),
    [
        (member("../evil"), "not a path that a bundle may hold"),
        (member("/etc/cron.d/evil"), "not a path that a bundle may hold"),
        (member("models/../../evil"), "not a path that a bundle may hold"),
        (member("./models/evil"), "not a path that a bundle may hold"),
        (member("models\\evil"), "not a path that a bundle may hold"),
        (member("models/evil\n"), "not a path that a bundle may hold"),
        (member(".hidden"), "not a path that a bundle may hold"),
        (member("manifest.json"), "stands in it twice"),
        (member("models/link", tarfile.SYMTYPE, "/etc/passwd"), "not a plain file"),
        (member("models/link", tarfile.LNKTYPE, "models/a.onnx"), "not a plain file"),
        (member("models/device", tarfile.CHRTYPE), "not a plain file"),
        (member("models/pipe", tarfile.FIFOTYPE), "not a plain file"),
        (member("folder", tarfile.DIRTYPE), "not a plain file"),
    ],
    ids=lambda value: repr(value.name) if isinstance(value, tarfile.TarInfo) else "",
)
def test_an_archive_with_an_evil_member_is_refused(
    folder: Path, evil: tarfile.TarInfo, words: str
) -> None:
    archive = tar_of(folder)
    with tarfile.open(archive, "a") as tar:
        tar.addfile(evil)
    refused(archive, words)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_is_refused(folder: Path, compress: Callable[[bytes], bytes]) -> None:
    archive = tar_of(folder)
    archive.write_bytes(compress(archive.read_bytes()))
    refused(archive, "not an uncompressed tar archive")


def test_what_is_not_there_or_not_a_bundle_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "no such bundle")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no manifest.json")
    (tmp_path / "text.tar").write_text("this is no tar")
    refused(tmp_path / "text.tar", "not an uncompressed tar archive")


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MAX_MANIFEST_BYTES", 100, "manifest.json is larger than 100 bytes"),
        ("MAX_FILE_BYTES", 639, "is larger than 639 bytes"),
        ("MAX_FILES", 3, "more than 3 files"),
    ],
)
def test_an_oversized_bundle_is_refused_unread(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, words: str
) -> None:
    archive = tar_of(folder)
    monkeypatch.setattr(bundles, limit, value)
    refused(folder, words)
    refused(archive, words)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_to_an_archive_is_refused_or_harmless(
    folder: Path, tmp_path: Path, data: st.DataObject
) -> None:
    archive = tmp_path / "good.tar"
    pack(Bundle.open(folder), archive)
    identity, stored = Bundle.open(archive).identity, bytearray(archive.read_bytes())
    place = data.draw(st.integers(0, len(stored) - 1))
    if data.draw(st.booleans()):
        stored[place] ^= data.draw(st.integers(1, 255))
    else:
        del stored[place:]
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(stored)
    try:
        opened = Bundle.open(damaged)
    except BundleError:
        return
    assert opened.identity == identity
    assert {name: opened.read(name) for name in MODEL_FILES} == MODEL_FILES


# ---- what is legal


def test_fields_that_an_older_reader_does_not_know_are_ignored(folder: Path) -> None:
    rewrite_manifest(folder, mood="sunny")
    assert Bundle.open(folder).manifest.name == "toy"


def test_signatures_may_hold_files_that_nobody_lists(folder: Path) -> None:
    identity = Bundle.open(folder).identity
    (folder / "signatures").mkdir()
    (folder / "signatures/acme.sig").write_bytes(b"signed")
    assert Bundle.open(folder).identity == Bundle.open(tar_of(folder)).identity == identity


def test_a_thin_bundle_holds_a_subset_of_the_variants(tmp_path: Path) -> None:
    full = manifest()
    thin = msgspec.structs.replace(full, variants=full.variants[:1])
    files = {name: MODEL_FILES[name] for name in ("models/a.onnx", "golden/input.npy")}
    opened = write(tmp_path / "thin", thin, files)
    assert [variant.name for variant in opened.manifest.variants] == ["onnx-fp32"]


def test_identity_is_the_digest_of_the_stored_manifest(folder: Path, tmp_path: Path) -> None:
    opened = Bundle.open(folder)
    stored = (folder / "manifest.json").read_bytes()
    assert opened.identity == f"sha256:{hashlib.sha256(stored).hexdigest()}"
    pack(opened, tmp_path / "packed.tar")
    packed = Bundle.open(tmp_path / "packed.tar")
    assert packed.identity == opened.identity
    assert {name: packed.read(name) for name in MODEL_FILES} == MODEL_FILES


def test_packing_is_deterministic(folder: Path, tmp_path: Path) -> None:
    pack(Bundle.open(folder), tmp_path / "first.tar")
    for file in (folder / "models").iterdir():
        os.utime(file, (1, 1))
        file.chmod(0o600)
    pack(Bundle.open(folder), tmp_path / "second.tar")
    pack(Bundle.open(tmp_path / "first.tar"), tmp_path / "third.tar")
    first, second, third = (
        (tmp_path / f"{name}.tar").read_bytes() for name in ("first", "second", "third")
    )
    assert first == second == third
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert [info.name for info in tar] == sorted(["manifest.json", *MODEL_FILES])


def test_the_bundles_that_came_with_edgewright_have_short_names() -> None:
    assert Bundle.open("builtin:wrist_activity").manifest.name == "wrist_activity"
    for name in ("builtin:nothing", "builtin:../models/wrist_activity", "builtin:"):
        with pytest.raises(BundleError, match="no such bundle comes with edgewright"):
            Bundle.open(name)


# ---- writing


def test_writing_replaces_an_older_bundle_as_a_whole(folder: Path) -> None:
    newer = write(folder, manifest(version="2.0.0"), {**MODEL_FILES, "extra.txt": b"more"})
    assert Bundle.open(folder).identity == newer.identity
    assert newer.manifest.version == "2.0.0"
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_writing_that_fails_leaves_the_older_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if target == folder and "older" not in self.name:
            raise OSError("power cut")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="power cut"):
        write(folder, manifest(version="2.0.0"), MODEL_FILES)
    assert Bundle.open(folder).manifest.version == "1.2.0"
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_writing_takes_no_place_that_belongs_to_something_else(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"dear to someone")
    (tmp_path / "webapp").mkdir()
    (tmp_path / "webapp/manifest.json").write_text('{"manifest_version": 3}')
    (tmp_path / "notes.txt").write_text("dear, too")
    before = sorted(path for path in tmp_path.rglob("*"))
    for taken in ("photos", "webapp", "notes.txt"):
        with pytest.raises(BundleError, match="not a bundle; name another place"):
            write(tmp_path / taken, manifest(), MODEL_FILES)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_writing_never_leaves_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'\.\./evil' is not a path"):
        write(tmp_path / "bundle", manifest(), {**MODEL_FILES, "../evil": b"!"})
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_in_memory_is_the_one_that_it_would_be_on_disk(tmp_path: Path) -> None:
    held = in_memory(tmp_path / "toy.onnx", manifest(), MODEL_FILES)
    written = write(tmp_path / "toy", manifest(), MODEL_FILES)
    assert held.identity == written.identity
    assert held.read("models/a.onnx") == written.read("models/a.onnx")
    with pytest.raises(BundleError, match="not listed"):
        held.read("models/other.onnx")
    pack(held, tmp_path / "held.tar")
    assert Bundle.open(tmp_path / "held.tar").identity == written.identity


def test_the_format_is_still_the_one_that_is_written_down() -> None:
    text = (Path(bundles.__file__).parent / "BUNDLE.md").read_text("utf-8")
    assert FORMAT in text
