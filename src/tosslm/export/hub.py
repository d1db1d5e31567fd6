"""An export as a data set on the Hugging Face Hub: private unless said otherwise, its own files and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tosslm.errors import InputError, TosslmError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

_HUBS_OWN = {".gitattributes"}
"""What the Hub puts into a new repo by itself."""


@dataclass(frozen=True, slots=True)
class Hub:
    """Where an export is uploaded to.

    Args:
        repo: ``owner/name`` of a data set that does not exist yet, or is empty.
        private: whether only its owner sees it.
        license: of the rows, as the Hub names it; None says none.
        endpoint: of another hub; None is the one that ``HF_ENDPOINT`` names, or the public one.
    """

    repo: str
    private: bool = True
    license: str | None = None
    endpoint: str | None = None

    def facts(self) -> dict[str, Any]:
        """What ``export.json`` says of it."""
        return {"repo": self.repo, "private": self.private, "license": self.license}


def check_hub(hub: Hub) -> None:
    """Refuse what the upload would stumble over, before anything is written here or there.

    Raises:
        InputError: the name is none, a public repo has no license, there is no token or no network, the repo holds
            something, or is public where a private one is asked for.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    if hub.repo.count("/") != 1:
        raise InputError(f"--push-to-hub {hub.repo}: name the owner too, as in me/{hub.repo}")
    if not hub.private and not hub.license:
        raise InputError(
            "--public: others can use the rows only under a license that they know; state it with --license, "
            "such as --license cc-by-4.0 (or other, or unknown), or upload with --private"
        )
    with _explained(hub):
        api = _api(hub)
        api.whoami()
        try:
            found = api.dataset_info(hub.repo)
        except RepositoryNotFoundError:
            return
    if held := sorted({one.rfilename for one in found.siblings or ()} - _HUBS_OWN):
        raise InputError(
            f"--push-to-hub {hub.repo}: the data set exists and holds {held[0]}"
            + (f" and {len(held) - 1:,} more files" if held[1:] else "")
            + "; name a new one, or delete that one on the Hub first"
        )
    if bool(found.private) != hub.private:
        raise InputError(
            f"--push-to-hub {hub.repo}: the data set exists and is {'private' if found.private else 'public'}; say "
            f"{'--private' if found.private else '--public'}, or change it on the Hub first"
        )


def push(hub: Hub, folder: Path, files: Iterable[str]) -> str:
    """Upload these files of a folder in one commit; gives back the address of the data set.

    Args:
        hub: where to, checked by ``check_hub``.
        folder: the export.
        files: their paths in it. Whatever else lies there stays.

    Raises:
        InputError: as ``check_hub``, or the Hub refuses the card.
        TosslmError: the upload broke, or the repo does not hold these files afterwards.
    """
    from huggingface_hub import CommitOperationAdd

    wanted = set(files)
    with _explained(hub):
        api = _api(hub)
        url = api.create_repo(hub.repo, repo_type="dataset", private=hub.private, exist_ok=True)
        api.create_commit(
            hub.repo,
            [CommitOperationAdd(name, folder / name) for name in sorted(wanted)],
            repo_type="dataset",
            commit_message="Rows with labels, by toss export",
        )
        there = set(api.list_repo_files(hub.repo, repo_type="dataset")) - _HUBS_OWN
    if there != wanted:
        raise TosslmError(
            f"{hub.repo}: holds other files than were uploaded ({', '.join(sorted(there ^ wanted))}); look at it on "
            "the Hub, delete it there, and upload again"
        )
    return str(url)


def _api(hub: Hub) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint)


@contextmanager
def _explained(hub: Hub) -> Iterator[None]:
    """What the Hub's library raises, as messages that say how to go on."""
    from huggingface_hub import errors

    network: Any = errors.HfHubHTTPError.__bases__[0]  # of the library beneath, which has changed its name

    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise InputError(
            "--push-to-hub: no token; log in with `hf auth login`, or set HF_TOKEN to a token that may write"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise InputError("--push-to-hub: HF_HUB_OFFLINE is set; unset it to upload") from error
    except errors.HFValidationError as error:
        raise InputError(f"--push-to-hub {hub.repo}: {error}") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(hub, error) from error
    except network as error:
        raise InputError(
            f"--push-to-hub {hub.repo}: the Hub cannot be reached ({error}); see to the network, then use the same "
            "command again"
        ) from error
    except ValueError as error:  # of a card that the Hub does not take
        raise InputError(f"--push-to-hub {hub.repo}: {error}; mend README.md, or --license") from error


def _refusal(hub: Hub, error: HfHubHTTPError) -> TosslmError:
    status = error.response.status_code
    if status in (401, 403):
        return InputError(
            f"--push-to-hub {hub.repo}: the Hub does not let this token write there ({status}); log in with "
            "`hf auth login` and a token that may write, and name an owner that is you or yours"
        )
    if status < 500:
        return InputError(f"--push-to-hub {hub.repo}: the Hub refuses it: {error}")
    return TosslmError(f"--push-to-hub {hub.repo}: the Hub failed ({status}); use the same command again later")
