"""Remove credentials from what is kept or shown: by field name, in addresses, by their form.

The forms of published tokens are those of ``detect-secrets`` (Yelp, Apache-2.0), with a few that it
lacks. Its entropy rules are not used, since hashes, commits and artifact keys are kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from coincide.system.files import write_text

REMOVED = "[removed]"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ALWAYS = set(
    "password passwords passwd passphrase pwd pw secret secrets apikey apikeys authorization "
    "cookie cookies credential credentials bearer jwt privatekey accesskey secretkey".split()
)
"""A field whose last word is one of these is a credential, whatever its value."""
_TEXTS = {"token", "auth", "sig", "signature", "sas", "hmac", "otp", "webhook"}
"""A field whose last word is one of these is a credential if its value is text; a number is a
count."""
_OF = set(
    "api access secret private priv auth account service client db database storage subscription "
    "license signing encryption master admin root user openai anthropic google hf wandb judge aws "
    "azure gcp ssh hmac server app bot llm gpt host smtp mail proxy http https login redis mysql "
    "pg postgres ftp sudo".split()
)
"""Before ``key`` and ``pass``, which mean much else: a sort key, one pass over the data."""
_ORDINARY_TOKENS = set(
    "pad padding eos bos unk sep cls mask image video audio visual text special answer question "
    "first last next stop start end per max min num by".split()
)
_GLUED = (
    "password", "passwd", "passphrase", "secret", "apikey", "accesskey", "secretkey", "privatekey",
    "token", "credentials", "authorization",
)  # fmt: skip
_HASH = re.compile(r"(?:[\w.-]*-)?[0-9a-f]{7,64}(?:[\w.-]*-[0-9a-f]{12})?")
"""A commit, a digest, or the folder of an artifact."""
_URL = re.compile(r"\w[\w+.-]*://[^\s\"'<>`\\]+")
_PORT = re.compile(r"\d{1,5}(?:[/?#]|$)")
_HOST = re.compile(
    r"(?:(?:[\w-]+\.)+[a-z][\w-]*|localhost|\d+(?:\.\d+){3}|\[[\da-f:]+\])(?=[:/?#]|$)", re.I
)
_QUERY = re.compile(r"([?&;#/])([\w.%\[\]-]+)=([^&;#]*)")
_QUOTED_QUERY = re.compile(
    r"(%(?:25)*(?:3F|26|23))([\w.-]+)(%(?:25)*3D)((?:(?!%(?:25)*26)[^&#])*)", re.I
)
"""Fields of an address that is itself the value of a field."""
_IN_ADDRESS = {"key", "code", "sessionid", "session_id", "sid"}
"""Fields that are credentials in an address alone."""
_LOGIN = re.compile(
    r"(?<![\w:/@.])(//)?[\w.+-]+:[^\s/@:\"']{3,}@(?=(?:(?:[\w-]+\.)+[a-z][\w-]*|localhost)[:/])",
    re.I,
)
"""User and password of an address without its scheme."""
_FLAG = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)[ \t]+(?![-<$\[]|[A-Z_]+\b)([^\s\"']+)")
_HOOK = re.compile(r"(discord(?:app)?\.com/api/webhooks/\d+/|/bot\d{6,}:)[\w-]{20,}")
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:key|token))(\\?[\"']?\s*[:=]\s*+"
    r"\\?+[\"']?+)(?!\s*\$\{|\[removed\])[^\r\n\"'}\]\\]+", re.I,
)  # fmt: skip
_BEARER = re.compile(r"\b(Bearer\s+)[\w.~+/-]{12,}=*|\b(Basic\s+)[A-Za-z0-9+/]{8,}={1,2}")
_VALUE = re.compile(r"\\?\"[^\"]*\"|\\?'[^']*'|\$\{[^}]*\}|(?!#)[^\s,;&{}\[\]()\"']+")
_ASSIGNED = re.compile(r"(?<![\w.@/%-])([\w.@/-]*\w)(?:=|[ \t]+=[ \t]+(?!=))")
_FIELD = re.compile(r"(?<![^{,\s])\\?[\"']?([\w.-]*\w)\\?[\"']?\s*:\s*")
_OVERRIDE = re.compile(r"[+~]{0,2}([\w.@/-]+)=(.*)", re.DOTALL)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*?(?:-----END [A-Z0-9 ]*-----|$)", re.S
)
_MORE_TOKENS = (
    r"gh[pousr]_[A-Za-z0-9]{16,}", r"github_pat_\w{16,}", r"gl[a-z]{1,5}-[\w-]{20,}",
    r"npm_[A-Za-z0-9]{16,}", r"hf_[A-Za-z0-9]{16,}", r"api_org_[A-Za-z0-9]{16,}",
    r"wandb_v\d+_\w{16,}", r"AIza[\w-]{20,}", r"ya29\.[\w-]{20,}", r"sk-[A-Za-z0-9]{16,}",
    r"sk-(?:proj|ant|svcacct|admin|or|lf|live|test)[\w-]*-[\w-]{16,}", r"xox[a-z]-[\w-]{10,}",
    r"xapp-[\w-]{16,}", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}", r"gsk_[A-Za-z0-9]{20,}",
    r"r8_[A-Za-z0-9]{20,}", r"nvapi-[\w-]{20,}", r"hvs\.[\w-]{20,}", r"dckr_pat_[\w-]{20,}",
    r"do[opr]_v1_[0-9a-f]{40,}", r"shp[a-z]{2}_[0-9a-fA-F]{32}", r"[rs]k_(?:live|test)_\w{16,}",
    r"whsec_[A-Za-z0-9+/]{20,}", r"(?:tvly|pplx|csk|xai)-[A-Za-z0-9]{20,}",
    r"lsv2_[a-z]{2}_\w{32,}",
    r"gls[ac]_\w{30,}", r"dapi[0-9a-f]{32}", r"(?:ntn|fw|figd|phc|phx|jina|sgp)_[A-Za-z0-9]{24,}",
    r"hf_oauth_[\w-]{20,}", r"CFPAT-[\w-]{30,}", r"lin_api_[A-Za-z0-9]{30,}", r"sbp_[0-9a-f]{40}",
    r"PMAK-[0-9a-f]{24}-[0-9a-f]{30,}", r"[\w]{10,}\.atlasv1\.[\w-]{40,}", r"tgp_v1_[\w-]{20,}",
    r"pypi-[\w-]{40,}", r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
)  # fmt: skip
"""What ``detect-secrets`` 1.5 lacks, or knows in an older length alone."""


def is_secret(name: str, value: Any = "") -> bool:
    """Whether a field with this name and value looks like a credential.

    Decided by the last word of the last part of ``name``: ``judge.api_key``, ``hfToken``,
    ``X-Amz-Signature``; but not ``token_scores`` or ``key_env``. Not a credential: a reference
    ``${...}``, true, false, null, a number as in ``token: 5``, ``<pad>`` in ``pad_token``, a hash
    in ``key``.
    """
    words = [word.lower() for word in _WORD.findall(name.rsplit(".", 1)[-1])]
    if not words or value is None or isinstance(value, bool) or _is_reference(value):
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last in _ALWAYS or (last in ("key", "keys") and before in _OF):
        return True
    if not isinstance(value, str) or (re.fullmatch(r"[-+\d.,_]*", value) and value):
        return False
    if last == "token" and before in _ORDINARY_TOKENS:
        return False
    if last == "key" and not before:
        return not _HASH.fullmatch(value)
    if last == "pass":
        return not before or before in _OF
    return last in _TEXTS or (last.endswith(_GLUED) and last != "token")


def is_secret_variable(name: str) -> bool:
    """Whether the environment variable ``name`` may hold a credential.

    One word of its name is enough.
    """
    words = {word.lower() for word in _WORD.findall(name)}
    telling = _ALWAYS | _TEXTS | {"key", "pass"}
    return name not in ("PWD", "OLDPWD") and not words.isdisjoint(telling)


def redact(value: Any, environ: Mapping[str, str] | None = None) -> Any:
    """``value`` (JSON) without credentials, for what is kept, shown or sent.

    Fields that :func:`is_secret` are dropped, as are overrides like ``judge.api_key=...`` in a
    list. In other texts only the credential is removed: user and password of an address, the value
    of ``sig=`` and the like, of ``{api_key: ...}``, tokens of a published form, and the values of
    variables in ``environ`` (default: the process's own) that are named like a credential.
    """
    found = os.environ if environ is None else environ
    hidden = [v for name, v in found.items() if is_secret_variable(name) and len(v) >= 8]
    return _redact(value, tuple(sorted(hidden, key=len, reverse=True)))


def redact_file(path: Path) -> None:
    """Rewrite a log, which nobody writes any more, without credentials; untouched where it has
    none.
    """
    with suppress(OSError):  # not there, or on a full disk: what it would say is told all the same
        text = path.read_text(encoding="utf-8", errors="replace")
        if (kept := redact(text)) != text:
            write_text(path, kept)


def _redact(value: Any, hidden: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {
            _redact(k, hidden): _redact(v, hidden)
            for k, v in value.items()
            if not is_secret(str(k), v)
        }
    if isinstance(value, list | tuple):
        follows = [False, *(_names_secret(item) for item in value)]
        return [
            REMOVED if after and isinstance(item, str) else _redact(item, hidden)
            for item, after in zip(value, follows, strict=False)
            if not _assigns_secret(item)
        ]
    if isinstance(value, str):
        for text in hidden:
            value = value.replace(text, REMOVED)
        return _text(value)
    return value


@lru_cache(maxsize=1 << 15)
def _text(text: str) -> str:
    """``text`` without credentials; cached, since a ledger repeats the same texts."""
    text = _PRIVATE_KEY.sub(REMOVED, text)
    text = _URL.sub(lambda found: _address(found[0]), text)
    text = _LOGIN.sub(lambda found: found[1] or "", text)
    text = _HOOK.sub(rf"\1{REMOVED}", text)
    text = _FLAG.sub(_flag, text)
    text = _HEADER.sub(rf"\1\2{REMOVED}", text)
    text = _BEARER.sub(lambda found: (found[1] or found[2]) + REMOVED, text)
    text = _named(_ASSIGNED, text, prose=False)
    text = _named(_FIELD, text, prose="{" not in text)
    return _shapes().sub(REMOVED, text)


def _address(url: str) -> str:
    """``url`` without user, password and the secret fields of query and fragment."""
    scheme, _, rest = url.partition("://")
    while (user := re.match(r"[^/?#@]*@", rest)) is not None:
        rest = rest[user.end() :]
    name, colon, after = rest.partition(":")
    if colon and not re.search(r"[/?#]", name) and not _PORT.match(after) and "@" in after:
        ends = [found.end() for found in re.finditer("@", rest)]
        rest = rest[next((end for end in reversed(ends) if _HOST.match(rest, end)), ends[-1]) :]
    return f"{scheme}://{_QUOTED_QUERY.sub(_quoted_field, _QUERY.sub(_field, rest))}"


def _field(found: re.Match[str]) -> str:
    name = unquote(found[2])
    secret = found[3] and (is_secret(name, found[3]) or name.lower() in _IN_ADDRESS)
    return f"{found[1]}{found[2]}=" if secret else found[0]


def _quoted_field(found: re.Match[str]) -> str:
    secret = found[4] and (is_secret(found[2], found[4]) or found[2].lower() in _IN_ADDRESS)
    return f"{found[1]}{found[2]}{found[3]}" if secret else found[0]


def _flag(found: re.Match[str]) -> str:
    """``--token value`` of a command line."""
    secret = is_secret(found[1], found[2])
    return found[0].removesuffix(found[2]) + REMOVED if secret else found[0]


def _named(names: re.Pattern[str], text: str, *, prose: bool) -> str:
    """``text`` without the values after ``name=`` or ``name:``; in ``prose`` a token is a word."""
    parts, at = [], 0
    for name in names.finditer(text):
        value = _VALUE.match(text, name.end())
        plain = value[0].strip("\\\"'") if value else ""
        if plain and plain != REMOVED and is_secret(name[1], 0 if prose else plain):
            assert value is not None
            parts += [text[at : name.end()], REMOVED]
            at = value.end()
    return "".join([*parts, text[at:]])


def _assigns_secret(item: Any) -> bool:
    found = _OVERRIDE.fullmatch(item) if isinstance(item, str) else None
    return found is not None and is_secret(found[1], found[2].strip("'\""))


def _names_secret(item: Any) -> bool:
    """Whether ``item`` is a flag like ``--api-key``, whose value is the next word."""
    flag = isinstance(item, str) and re.fullmatch(r"--[A-Za-z][\w-]*", item) is not None
    return flag and is_secret(item, "a value")


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\s*\$\{[^{}]*\}\s*", value) is not None


@cache
def _shapes() -> re.Pattern[str]:
    """The forms of published tokens as one regular expression."""
    from detect_secrets.plugins.aws import AWSKeyDetector
    from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
    from detect_secrets.plugins.github_token import GitHubTokenDetector
    from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
    from detect_secrets.plugins.jwt import JwtTokenDetector
    from detect_secrets.plugins.mailchimp import MailchimpDetector
    from detect_secrets.plugins.openai import OpenAIDetector
    from detect_secrets.plugins.pypi_token import PypiTokenDetector
    from detect_secrets.plugins.sendgrid import SendGridDetector
    from detect_secrets.plugins.slack import SlackDetector
    from detect_secrets.plugins.square_oauth import SquareOAuthDetector
    from detect_secrets.plugins.stripe import StripeDetector
    from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
    from detect_secrets.plugins.twilio import TwilioKeyDetector

    kept: list[Any] = [
        AWSKeyDetector, AzureStorageKeyDetector, GitHubTokenDetector, GitLabTokenDetector,
        JwtTokenDetector, MailchimpDetector, OpenAIDetector, PypiTokenDetector, SendGridDetector,
        SlackDetector, SquareOAuthDetector, StripeDetector, TelegramBotTokenDetector,
        TwilioKeyDetector,
    ]  # fmt: skip
    shapes = [
        f"(?{'i' if pattern.flags & re.IGNORECASE else ''}:{pattern.pattern})"
        for detector in kept
        for pattern in detector.denylist
    ]
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join([*_MORE_TOKENS, *shapes])})")
