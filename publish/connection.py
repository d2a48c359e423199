# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Errors of the Hub and of the connection: retried if that may help, reported in one line, and without a token."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx2
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from flashsloth.folders.errors import one_line
from flashsloth.publish.private import TOKEN, USER_IN_URL


logger = logging.getLogger(__name__)

Result = TypeVar("Result")

RETRY_WAITS = (1, 2, 4, 8)  # seconds
# Those that huggingface_hub retries itself when it uploads, and conflicts with another user's commit.
RETRIED_STATUS = (408, 409, 412, 429, 500, 502, 503, 504)
SETTINGS_URL = "https://huggingface.co/settings/tokens"

QUERY_OF_URL = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")  # which holds the signature of a storage address


def redact(text: str, token: str | None = None) -> str:
    """A text without tokens, the one in use and all that look like one, and without passwords and queries of URLs."""
    if token:
        text = text.replace(token, "<token>")
    return QUERY_OF_URL.sub(r"\1", USER_IN_URL.sub("", TOKEN.sub("<token>", text)))


@contextlib.contextmanager
def redacted_logs(token: str | None) -> Iterator[None]:
    """Redacts the log messages of all libraries: huggingface_hub logs a failed upload with its signed address."""
    factory = logging.getLogRecordFactory()

    def make_record(*args, **kwargs) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.msg, record.args = redact(record.getMessage(), token), ()
        return record

    logging.setLogRecordFactory(make_record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)


def retried(action: Callable[[], Result]) -> Result:
    """
    Runs an action, and runs it again from its start after a lost connection, an error of the Hub, or another user's
    commit in between. To run it twice must do no harm.

    Raises:
        httpx2.HTTPError: If the last attempt fails too, or another attempt would not help.
    """
    for wait in RETRY_WAITS:
        try:
            return action()
        except httpx2.HTTPError as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in RETRIED_STATUS:
                raise
            logger.warning("%s. Trying again in %d s", one_line(error).rstrip("."), wait)
            time.sleep(wait)
    return action()


@contextlib.contextmanager
def clear_errors(repo_id: str, token: str | None) -> Iterator[None]:
    """
    Turns each error of the Hub and of the connection into one line. The original error is suppressed, as it may show a
    token.

    Raises:
        ValueError: If the user can do something about it.
        OSError: If the Hub or the connection failed.
    """
    try:
        yield
    except LocalTokenNotFoundError:
        raise ValueError(
            f"Nobody is logged in: run `hf auth login`, or set HF_TOKEN to a token that may write ({SETTINGS_URL})."
        ) from None
    except OfflineModeIsEnabled:
        raise ValueError("HF_HUB_OFFLINE is set, which keeps the Hub from being reached: unset it.") from None
    except HfHubHTTPError as error:
        raise _explained(error, repo_id, token) from None
    except httpx2.InvalidURL as error:
        raise ValueError(redact(f"HF_ENDPOINT is not a URL: {one_line(error)}", token)) from None
    except (httpx2.HTTPError, OSError) as error:  # OSError comes from the storage's client, or from a local file
        raise _failure(f"The upload failed ({one_line(error).rstrip('.')})", repo_id, token) from None
    except RuntimeError as error:  # an upload that failed in a thread, by any protocol
        cause = f" ({one_line(error.__cause__)})" if error.__cause__ else ""
        raise _failure(one_line(error).rstrip(".") + cause, repo_id, token) from None
    except ValueError as error:
        raise ValueError(redact(str(error), token)) from None


def _explained(error: HfHubHTTPError, repo_id: str, token: str | None) -> ValueError | OSError:
    status = error.response.status_code
    said = f" (it says: {one_line(error.server_message)})" if error.server_message else ""
    if status in RETRIED_STATUS:
        return _failure(f"The Hub failed with status {status}{said}", repo_id, token)
    if status == 401:
        text = f"The Hub does not accept the token{said}: run `hf auth login`, or set HF_TOKEN to another"
    elif status == 403:
        text = f"The Hub does not let this token write to {repo_id}{said}: use one that may, or another repository"
    elif isinstance(error, RevisionNotFoundError):
        text = f"{repo_id} has no such revision{said}"
    elif status == 404:
        text = f"{repo_id} does not exist, or the token may not see it{said}"
    else:
        text = f"The Hub refuses the request with status {status}{said}"
    return ValueError(redact(f"{text}.", token))


def _failure(text: str, repo_id: str, token: str | None) -> OSError:
    hint = f"The Hub serves the last complete commit of {repo_id}. Run the same command again to upload the rest."
    return OSError(redact(f"{text}. {hint}", token))
