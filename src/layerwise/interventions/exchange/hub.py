"""Plans on the Hugging Face hub: a repository that holds what ``saving.save`` writes, and a README that says what it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi, constants, errors, snapshot_download

from layerwise.errors import UserError
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.saving import PLAN, TENSORS, save
from layerwise.models.hub import offline

_WANTED = (PLAN, TENSORS, "*.json", "intkey_*.bin", "adapter_model.safetensors", "*.gguf")
_CARD = """---
tags: [layerwise, steering]
{base}---
# {name}

A plan of Layerwise: operations inside the forward pass of `{model}`. It holds numbers alone, no code.

```
{plan}
```

```python
from layerwise.interventions.exchange.reading import read
from layerwise.models.loading import load_model

steered = read("{name}", load_model("{model}"))
steered.generate(["…"], max_new_tokens=40)
```
"""


def push(intervened: Intervened, repository: str, *, private: bool = False, message: str = "A plan") -> str:
    """Put a plan into a repository of the hub (``owner/name``), made where it is not there; returns the commit's address.

    The folder stands alone: weights of sparse autoencoders go with it. Raises UserError without access or a connection, and for
    functions given in Python.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "plan"
        save(intervened, folder, alone=True)
        model = getattr(intervened.model, "name", "")
        base = f"base_model: {model}\n" if model.count("/") == 1 and not Path(model).exists() else ""
        card = _CARD.format(name=repository, model=model, base=base, plan=intervened.plan)
        (folder / "README.md").write_text(card, encoding="utf-8")
        with _Explained(repository, "push to"):
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message).commit_url)


def pull(repository: str, revision: str | None = None) -> Path:
    """The files of a plan's repository on this machine: a plan, or what pyvene, peft or repeng put there. No code is fetched."""
    with _Explained(repository, "pull from"):
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(_WANTED), local_files_only=offline())
        )


class _Explained:
    """A context that says in our words what the hub refuses."""

    def __init__(self, repository: str, what: str) -> None:
        self.repository, self.what = repository, what

    def __enter__(self) -> None:
        if self.what == "push to" and offline():
            raise UserError(f"cannot {self.what} {self.repository}: {constants.ENDPOINT} cannot be reached from here.")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception):
            return
        name = self.repository
        if isinstance(error, errors.HFValidationError):
            raise UserError(f"{name!r} is no repository: write owner/name.") from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise UserError(f"{name} has no such revision on the hub (a branch, tag or commit).") from error
        if isinstance(error, errors.RepositoryNotFoundError):
            raise UserError(
                f"no repository {name!r} on the hub, or it is private (then set HF_TOKEN in the environment)."
            ) from error
        if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            raise UserError(f"{name!r} is no folder here, and the hub cannot be reached to fetch it.") from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
            raise UserError(f"the hub does not let you {self.what} {name}: set HF_TOKEN to one that may.") from error
        if isinstance(error, OSError | errors.HfHubHTTPError):
            raise UserError(f"cannot {self.what} {name}: {' '.join(str(error).split())[:200]}") from error
