"""Remove credentials from what is kept or shown: by field name, in addresses, by their form."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from coincide.system.files import write_text
from coincide.terminal import tokens

REMOVED = "[removed]"
_WORD = re.compile(r"[A-ZÑ]+(?![a-zñ])|[A-ZÑ]?[a-zñ]+")
_ALWAYS = set(
    "password passwords passwd passphrase pwd pw secret secrets apikey apikeys authorization "
    "cookie cookies credential credentials bearer jwt privatekey accesskey secretkey passcode dsn "
    "connstr connectionstring mnemonic netrc kubeconfig sessionid totp contrasena passwort".split()
)
"""A field whose last word is one of these is a credential, whatever its value."""
_TEXTS = set(
    "token auth sig signature sas hmac otp webhook session ticket assertion csrf xsrf".split()
)
"""A field whose last word is one of these is a credential if its value is text; a number is a
count."""
_OF = set(
    "api access secret private priv auth account service client db database storage subscription "
    "license signing encryption master admin root user openai anthropic google hf wandb judge aws "
    "azure gcp ssh hmac server app bot llm gpt host smtp mail proxy http https login redis mysql "
    "pg postgres ftp sudo consumer bind ldap aes rsa fernet deploy session webhook".split()
)
"""Before ``key`` and ``pass``, which mean much else: a sort key, one pass over the data."""
_PAIRS = {("connection", "string"), ("conn", "string"), ("conn", "str"), ("session", "id"),
          ("webhook", "url"), ("hook", "url"), ("seed", "phrase"), ("de", "passe")}  # fmt: skip
"""Last two words of a field that is a credential."""
_FORMS = set("value text string raw plain pem b64 base64 json id hash".split())
"""After the word that makes a field a credential: ``private_key_pem``, ``secret_id``."""
_ORDINARY_TOKENS = set(
    "pad padding eos bos unk sep cls mask image video audio visual text special answer question "
    "first last next stop start end per max min num by".split()
)
_GLUED = (
    "password", "passwd", "passphrase", "secret", "apikey", "accesskey", "secretkey", "privatekey",
    "token", "credentials", "authorization",
)  # fmt: skip
_PLAIN = re.compile(r"[-+\d.,_]*|true|false|null|none", re.I)
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
_IN_ADDRESS = set(
    "key code sid pin policy key-pair-id awsaccesskeyid googleaccessid phpsessid jsessionid".split()
)
"""Fields that are credentials in an address alone."""
_FRAGMENT = re.compile(r"#(?=[\w.~+/-]*\d)(?=[\w.~+/-]*[a-z])(?=[\w.~+/-]*[A-Z])[\w.~+/-]{20,}=*$")
"""A key in the place of a heading's name, as encrypted pastes and shares have it."""
_LOGIN = re.compile(
    r"(?<![\w:/@.])(//)?[\w.+-]+:[^\s/@:\"']{3,}@"
    r"(?=(?:(?:[\w-]+\.)+[a-z][\w-]*|localhost|\d+(?:\.\d+){3}|\[[\da-f:]+\])[:/])",
    re.I,
)
"""User and password of an address without its scheme."""
_FLAG = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]+)[ \t]+(?![-<$\[]|[A-Z_]+\b)([^\s\"']+)")
_SHORT_FLAG = re.compile(
    r"((?:\b(?:curl|wget|https?|xh)\b[^\n|;&]*?\s(?:-[uaU]|--(?:proxy-)?(?:user|auth))[ \t=]*[\"']?"
    r"[^\s\"':]+:|(?:\b(?:mysql\w*|mariadb[\w-]*|mongo\w*|sshpass|\w+ login)\b[^\n|;&]*?\s-p|"
    r"\bredis-cli\b[^\n|;&]*?\s-a|\bldap\w+\b[^\n|;&]*?\s-w|\b(?:sqlcmd|bcp)\b[^\n|;&]*?\s-P)"
    r"[ \t=]*(?![-$]|[\d:.,]+(?:\s|$))))(\"[^\"]*\"|'[^']*'|[^\s\"']+)"
)
"""Options whose short names mean a password, of the programs for which they do."""
_ELEMENT = re.compile(r"<([\w:-]+)>([^<>]+)</\1>")
_HEADER_FLAG = re.compile(r"((?:-H|--header)[ \t=]*[\"']?([\w-]+):\s*)([^\r\n\"']+)")
_SAID = re.compile(
    r"\b((?:password|passwd|passphrase|api[ _-]?key)(?: provided)?(?: is|:)?[ \t]+)"
    r"(?:\"[^\"]+\"|'[^']+'|(?=\S*\d)(?=\S*[A-Za-z])[^\s\"'\[{]{8,})",
    re.I,
)
"""A password in a sentence: in quotes, or with letters and digits as no word has them."""
_HOOK = re.compile(r"(discord(?:app)?\.com/api/webhooks/\d+/|/bot\d{6,}:)[\w-]{20,}")
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:key|token))(\\?[\"']?\s*[:=]\s*+"
    r"\\?+[\"']?+)(?!\s*\$\{|\[removed\])[^\r\n\"'}\]\\]+", re.I,
)  # fmt: skip
_BEARER = re.compile(r"\b(Bearer\s+)[\w.~+/-]{12,}=*|\b(Basic\s+)[A-Za-z0-9+/]{8,}={1,2}")
_VALUE = re.compile(
    r"\\?\"[^\"]*\"|\\?'[^']*'|\\?[\"'][^\"'\s]{4,}$|\$\{[^}]*\}|(?!#)[^\s,;&{}\[\]()\"']+"
)
_ASSIGNED = re.compile(
    r"(?<![\w.@/%-])([\w.@/-]*\w)(?:=(?!>)|[ \t]*(?::=|=>)[ \t]*|[ \t]+=[ \t]+(?!=))"
)
_FIELD = re.compile(r"(?<![^{,\s])\\?[\"']?([\w.-]*\w)\\?[\"']?\s*:\s*")
_OVERRIDE = re.compile(r"[+~]{0,2}([\w.@/-]+)=(.*)", re.DOTALL)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*?(?:-----END [A-Z0-9 ]*-----|$)", re.S
)


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
    if _always(words) or (words[-1] in _FORMS and _always(words[:-1])):
        return True
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if not isinstance(value, str) or (_PLAIN.fullmatch(value) and value):
        return False
    if last == "token" and before in _ORDINARY_TOKENS:
        return False
    if last == "key" and not before:
        return not _HASH.fullmatch(value)
    if last == "pass":
        return not before or before in _OF
    return last in _TEXTS or (last.endswith(_GLUED) and last != "token")


def _always(words: list[str]) -> bool:
    """Whether a field whose name ends in ``words`` is a credential, whatever its value."""
    last, before = words[-1:], words[-2:-1]
    if not last:
        return False
    glued = any(
        last[0].endswith(end) and last[0].removesuffix(end) in _OF
        for end in ("pw", "pwd", "pass", "key")
    )
    paired = last[0] in ("key", "keys") and before and before[0] in _OF
    known = last[0] in _ALWAYS or tuple(words[-2:]) in _PAIRS
    return bool(known or glued or paired or tokens.names().search("_".join(words)))


@cache
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
    return without(value, values_to_hide(environ))


def values_to_hide(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Values of the variables named like a credential, for :func:`without`; the longest first."""
    found = os.environ if environ is None else environ
    hidden = [v for name, v in found.items() if is_secret_variable(name) and len(v) >= 8]
    return tuple(sorted(hidden, key=len, reverse=True))


def redact_file(path: Path) -> None:
    """Rewrite a log, which nobody writes any more, without credentials; untouched where it has
    none.
    """
    with suppress(OSError):  # not there, or on a full disk: what it would say is told all the same
        text = path.read_text(encoding="utf-8", errors="replace")
        if (kept := redact(text)) != text:
            write_text(path, kept)


def without(value: Any, hidden: tuple[str, ...]) -> Any:
    """As :func:`redact`, for many values: the environment is read once, by whoever calls."""
    if isinstance(value, str):
        for text in hidden:
            value = value.replace(text, REMOVED)
        return _text(value)
    if value is None or isinstance(value, int | float):  # before what takes longer to be told
        return value
    if isinstance(value, Mapping):
        return {
            without(k, hidden): without(v, hidden)
            for k, v in value.items()
            if not is_secret(str(k), v)
        }
    if isinstance(value, list | tuple):
        return [
            REMOVED if i and _follows_flag(value, i) else without(item, hidden)
            for i, item in enumerate(value)
            if not _assigns_secret(item)
        ]
    return value


@lru_cache(maxsize=1 << 15)
def _text(text: str) -> str:
    """``text`` without credentials; cached, since a ledger repeats the same texts."""
    text = _PRIVATE_KEY.sub(REMOVED, text)
    text = _URL.sub(lambda found: _address(found[0]), text)
    text = _LOGIN.sub(lambda found: found[1] or "", text)
    text = _HOOK.sub(rf"\1{REMOVED}", text)
    text = _FLAG.sub(_flag, text)
    text = _SHORT_FLAG.sub(rf"\1{REMOVED}", text)
    text = _HEADER_FLAG.sub(lambda f: f[1] + (REMOVED if is_secret(f[2], f[3]) else f[3]), text)
    text = _ELEMENT.sub(_element, text)
    text = _HEADER.sub(rf"\1\2{REMOVED}", text)
    text = _BEARER.sub(lambda found: (found[1] or found[2]) + REMOVED, text)
    text = _named(_ASSIGNED, text, prose=False)
    text = _named(_FIELD, text, prose="{" not in text)
    text = _SAID.sub(rf"\1{REMOVED}", text)
    return tokens.shapes().sub(REMOVED, text)


def _address(url: str) -> str:
    """``url`` without user, password and the secret fields of query and fragment."""
    scheme, _, rest = url.partition("://")
    while (user := re.match(r"[^/?#@]*@", rest)) is not None:
        rest = rest[user.end() :]
    name, colon, after = rest.partition(":")
    if colon and not re.search(r"[/?#]", name) and not _PORT.match(after) and "@" in after:
        ends = [found.end() for found in re.finditer("@", rest)]
        rest = rest[next((end for end in reversed(ends) if _HOST.match(rest, end)), ends[-1]) :]
    rest = _FRAGMENT.sub("", rest)
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


def _element(found: re.Match[str]) -> str:
    """``<password>value</password>``; ``<key>`` and ``<token>`` are words of XML and of models."""
    name = found[1].rsplit(":", 1)[-1]
    secret = name.lower() not in ("key", "token") and is_secret(name, found[2])
    return f"<{found[1]}>{REMOVED}</{found[1]}>" if secret else found[0]


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


def _follows_flag(words: Sequence[Any], i: int) -> bool:
    """Whether the word at ``i`` is the value of a flag before it: ``--api-key``, or ``-p`` of
    a program that takes a password so.
    """
    flag, value = words[i - 1], words[i]
    if not isinstance(flag, str) or not isinstance(value, str):
        return False
    if not re.fullmatch(r"-[A-Za-z]|--?[A-Za-z][\w-]+", flag):
        return False
    line = " ".join(map(str, words[max(0, i - 20) : i + 1]))
    return is_secret(flag, "a value") or any(
        f.end() == len(line) for f in _SHORT_FLAG.finditer(line)
    )


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\s*\$\{[^{}]*\}\s*", value) is not None
