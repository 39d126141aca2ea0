"""Make the installed OpenRLHF run on machines without CUDA, or undo it.

    python -m openrlhf_pf.cli.patch apply     patch the installed OpenRLHF; nothing to do if it is patched
    python -m openrlhf_pf.cli.patch revert    put the bytes of the release back; nothing to do if it is not patched
    python -m openrlhf_pf.cli.patch status    say which of the two it is

Exit code of `apply` and `revert`: 0 when OpenRLHF is as asked, 2 when refused, and then nothing was changed.
Exit code of `status`: 0 applied, 1 not applied, 2 neither (no OpenRLHF, an unknown version, edited files).

No file is trusted by its name: what the release shipped is known from the sha256 sums in its own RECORD, and what the
patch makes of a file is known by undoing the patch in a scratch folder and comparing with those sums.
"""

import argparse
import base64
import contextlib
import copy
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "openrlhf"
PLUGIN = Path(__file__).resolve().parents[1]
# Inside the package once installed from a wheel, beside it in a checkout.
PATCH_FOLDERS = (PLUGIN / "patches", PLUGIN.parent / "patches")


class PatchRefused(Exception):
    """Why nothing was changed, in one sentence that says what to do."""


@dataclass
class File:
    """One file that the patch touches: its path below site-packages, and its bytes in three states."""

    name: str
    current: bytes
    original: bytes
    patched: bytes


@dataclass
class Tree:
    """The installed OpenRLHF. `edited` are files that are neither the release's nor the patch's."""

    root: Path
    version: str
    files: list[File]
    edited: list[str]

    @property
    def state(self) -> str:
        """One of applied, not applied, partly applied, edited."""
        if self.edited:
            return "edited"
        patched = sum(file.current == file.patched for file in self.files)
        return {len(self.files): "applied", 0: "not applied"}.get(patched, "partly applied")


def shipped_patches() -> dict[str, Path]:
    """OpenRLHF version -> the patch for it."""
    folder = next((folder for folder in PATCH_FOLDERS if any(folder.glob(f"{PACKAGE}-*-cpu.patch"))), None)
    if folder is None:
        raise PatchRefused(f"no patch is shipped in {' or '.join(map(str, PATCH_FOLDERS))}: reinstall openrlhf-pf.")
    return {path.name[len(PACKAGE) + 1 : -len("-cpu.patch")]: path for path in folder.glob(f"{PACKAGE}-*-cpu.patch")}


def installed_release() -> tuple[Path, str, dict[str, str]]:
    """Where OpenRLHF is installed, its version, and the sha256 of each of its files. Does not import it."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise PatchRefused(
            f"OpenRLHF is not installed for {sys.executable}: install openrlhf, then run again."
        ) from None
    root = Path(str(distribution.locate_file(""))).resolve()
    sums = {
        str(path): path.hash.value
        for path in distribution.files or []
        if path.hash is not None and path.parts[0] == PACKAGE and path.suffix != ".pyc"
    }
    spec = importlib.util.find_spec(PACKAGE)
    imported = Path(spec.origin).resolve().parent if spec and spec.origin else None
    if not sums or imported != root / PACKAGE:
        raise PatchRefused(
            f"Python imports OpenRLHF from {imported}, which is not the release installed in {root}: patch a source "
            "tree with `git apply`, or run this from a folder that holds no openrlhf."
        )
    return root, distribution.version, sums


def load_patch(version: str) -> Any:
    """The parsed patch for this OpenRLHF."""
    shipped = shipped_patches()
    if version not in shipped:
        raise PatchRefused(
            f"OpenRLHF {version} is installed and there is a patch for {', '.join(sorted(shipped))}: install that "
            "version, or add a patch as patches/README.md says."
        )
    try:
        import patch_ng
    except ImportError:
        raise PatchRefused("patch-ng is not installed: pip install 'openrlhf-pf[cpu]'.") from None
    patch = patch_ng.fromfile(str(shipped[version]))
    assert patch and patch.items, f"{shipped[version]} is not a patch"
    return patch


def patch_one(patch: Any, index: int, content: bytes, backwards: bool) -> bytes | None:
    """Apply or undo the patch's file number `index` on `content`, in a scratch folder. None if it does not fit."""
    single = copy.copy(patch)
    single.items = [copy.deepcopy(patch.items[index])]
    with tempfile.TemporaryDirectory(prefix="openrlhf_pf_patch_") as scratch:
        path = Path(scratch, file_name(single.items[0]))
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        strip = int(single.items[0].source.startswith(b"a/"))
        fits = (single.revert if backwards else single.apply)(strip=strip, root=scratch)
        # patch-ng calls it a success, too, when it thinks that there was nothing to do.
        return path.read_bytes() if fits and path.read_bytes() != content else None


def file_name(item: Any) -> str:
    """The path below site-packages of one file of a parsed patch."""
    return item.source.decode().removeprefix("a/")


def read_tree() -> Tree:
    """Look at every file of the installed OpenRLHF and tell the release's bytes from the patch's."""
    root, version, sums = installed_release()
    patch = load_patch(version)
    touched = {file_name(item): index for index, item in enumerate(patch.items)}
    assert touched.keys() <= sums.keys(), f"the patch has files that OpenRLHF {version} lacks"
    tree = Tree(root, version, files=[], edited=[])
    for name, expected in sorted(sums.items()):
        path = root / name
        current = path.read_bytes() if path.is_file() else None
        if current is None:
            tree.edited.append(name)
        elif name not in touched:
            if sha256(current) != expected:
                tree.edited.append(name)
        else:
            untouched = sha256(current) == expected
            original = current if untouched else patch_one(patch, touched[name], current, backwards=True)
            patched = None if original is None else patch_one(patch, touched[name], original, backwards=False)
            if (
                original is None
                or sha256(original) != expected
                or patched is None
                or current not in (original, patched)
            ):
                tree.edited.append(name)
            else:
                tree.files.append(File(name, current, original, patched))
    return tree


def sha256(content: bytes) -> str:
    """In the spelling of a RECORD file: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the kernel gives the lock back when a process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """A new file moved into place: a hard link of `path` in a package cache keeps its bytes, a reader sees no half."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.chmod(scratch, path.stat().st_mode & 0o7777)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def write_all(tree: Tree, wanted: dict[str, bytes]) -> None:
    """Write every file or none."""
    before = {file.name: file.current for file in tree.files}
    written: list[str] = []
    try:
        for name, content in wanted.items():
            write_file(tree.root / name, content)
            written.append(name)
    except OSError as error:
        for name in written:
            write_file(tree.root / name, before[name])
        raise PatchRefused(
            f"cannot write below {tree.root} ({error}): nothing was changed; make it writable."
        ) from error


def change(to_patched: bool) -> str:
    """Bring the installed OpenRLHF into the patched or the released state and say what was done."""
    root, _, _ = installed_release()
    with locked(root / PACKAGE):
        tree = read_tree()
        if tree.edited:
            raise PatchRefused(edited_sentence(tree))
        target = {file.name: file.patched if to_patched else file.original for file in tree.files}
        wanted = {file.name: target[file.name] for file in tree.files if file.current != target[file.name]}
        write_all(tree, wanted)
    done = "applied" if to_patched else "not applied"
    what = f"{len(wanted)} files changed" if wanted else "nothing to do"
    return f"OpenRLHF {tree.version} in {tree.root}: CPU patch {done} ({what})."


def edited_sentence(tree: Tree) -> str:
    return (
        f"OpenRLHF {tree.version} in {tree.root} has files that are neither the release's nor the patch's "
        f"({', '.join(tree.edited)}): save your changes, then `pip install --no-deps --force-reinstall "
        f"{PACKAGE}=={tree.version}` and run again."
    )


def status() -> tuple[int, str]:
    """The exit code and the sentence of `status`."""
    tree = read_tree()
    if tree.edited:
        return 2, edited_sentence(tree)
    code = 0 if tree.state == "applied" else 1
    hint = "; `apply` or `revert` finishes it" if tree.state == "partly applied" else ""
    return code, f"OpenRLHF {tree.version} in {tree.root}: CPU patch {tree.state}{hint}."


def parser() -> argparse.ArgumentParser:
    """The command line."""
    built = argparse.ArgumentParser(
        prog="python -m openrlhf_pf.cli.patch", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    built.add_argument("command", choices=["apply", "revert", "status"])
    return built


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code, as the module's docstring says."""
    command = parser().parse_args(arguments).command
    try:
        code, sentence = status() if command == "status" else (0, change(to_patched=command == "apply"))
    except PatchRefused as refusal:
        code, sentence = 2, str(refusal)
    print(sentence, file=sys.stderr if code == 2 else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
