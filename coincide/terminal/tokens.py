"""The forms of published tokens, by which one is found wherever it stands.

Those of ``detect-secrets`` (Yelp, Apache-2.0) and, where it lacks a provider or knows an older
length alone, the forms that the provider states. Its entropy rules are not used, since hashes,
commits and artifact keys are kept.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

REPOSITORIES = (
    r"gh[pousr]_[A-Za-z0-9]{16,}", r"github_pat_\w{16,}", r"gl[a-z]{1,5}-[\w-]{20,}",
    r"GR1348941[\w-]{20}", r"ATBB[A-Za-z0-9]{24,}", r"BBDC-[\w+/]{40,}", r"AT[AC]TT3[\w=-]{20,}",
    r"npm_[A-Za-z0-9]{16,}", r"pypi-[\w-]{40,}", r"dckr_pat_[\w-]{20,}", r"rubygems_[0-9a-f]{48}",
    r"oy2[a-z0-9]{43}", r"CLOJARS_[A-Za-z0-9]{60}", r"AKCp[A-Za-z0-9]{60,}",
    r"sgp_[A-Za-z0-9_]{24,}", r"cmVmd[A-Za-z0-9]{59}", r"CCIPAT_\w{20,}", r"bkua_[0-9a-f]{40}",
    r"lin_api_[A-Za-z0-9]{30,}",
)  # fmt: skip
"""Hosts of code, packages and builds."""
MODELS = (
    r"hf_[A-Za-z0-9]{16,}", r"hf_oauth_[\w-]{20,}", r"api_org_[A-Za-z0-9]{16,}",
    r"sk-[A-Za-z0-9]{16,}", r"sk-(?:proj|ant|svcacct|admin|or|lf|live|test)[\w-]*-[\w-]{16,}",
    r"wandb_v\d+_\w{16,}", r"gsk_[A-Za-z0-9]{20,}", r"r8_[A-Za-z0-9]{20,}", r"nvapi-[\w-]{20,}",
    r"tgp_v1_[\w-]{20,}", r"(?:tvly|pplx|csk|xai)-[A-Za-z0-9]{20,}", r"lsv2_[a-z]{2}_\w{32,}",
    r"rpa_[A-Za-z0-9]{30,}", r"(?:fw|jina)_[A-Za-z0-9]{24,}", r"e2b_[0-9a-f]{40}",
    r"fc-[0-9a-f]{32}", r"a[ks]-[A-Za-z0-9]{22}",
)  # fmt: skip
"""Hosts of models, and of what runs them."""
CLOUDS = (
    r"AIza[\w-]{20,}", r"ya29\.[\w-]{20,}", r"GOCSPX-[\w-]{20,}", r"1//0[\w-]{40,}",
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}", r"amzn\.mws\.[0-9a-f-]{36}", r"LTAI[A-Za-z0-9]{16,}",
    r"[\w~.]{3}\dQ~[\w~.-]{31,34}", r"do[opr]_v1_[0-9a-f]{40,}", r"AQVN[\w-]{35,}", r"YC[\w-]{38}",
    r"v1\.0-[0-9a-f]{24}-[0-9a-f]{146}", r"HRKU-[\w-]{36,}", r"nfp_[A-Za-z0-9]{36}",
    r"FlyV1[ ]fm\S{20,}", r"(?:fo1|fm1r|fm1a|fm2)_[\w+/=-]{30,}", r"dapi[0-9a-f]{32}",
    r"4b1d[A-Za-z0-9]{38}", r"pscale_(?:tkn|oauth|pw)_[\w=.-]{32,}", r"sbp_[0-9a-f]{40}",
    r"sha256~[\w-]{43}",
)  # fmt: skip
VAULTS = (
    r"hv[sbr]\.[\w-]{20,}", r"[\w]{10,}\.atlasv1\.[\w-]{40,}", r"pul-[0-9a-f]{40}",
    r"dp\.(?:pt|st|sa|ct|scim|audit)\.[\w.-]{20,}", r"ops_eyJ[\w+/=-]{40,}",
    r"tskey-[a-z]+-[\w-]{16,}", r"A3-[A-Z0-9]{6}-[A-Z0-9-]{20,}", r"AGE-SECRET-KEY-1[A-Z0-9]{40,}",
    r"gAAAAA[\w=-]{60,}", r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
)  # fmt: skip
"""Keepers of secrets, and what keys are written as."""
SERVICES = (
    r"xox[a-z]-[\w-]{10,}", r"xapp-[\w-]{16,}", r"secret_[A-Za-z0-9]{43}", r"ntn_[A-Za-z0-9]{24,}",
    r"gl(?:sa|c)_[\w+/=]{30,}", r"eyJrIjoi[\w+/=-]{30,}",
    r"dt0[a-z]\d\d\.[A-Z0-9]{24}\.[A-Z0-9]{60,}", r"NR(?:AK|JS|II|RA|AL)-[\w-]{19,}",
    r"sntrys_[\w+/=]{40,}", r"sntryu_[0-9a-f]{64}", r"(?:phc|phx|figd)_[A-Za-z0-9]{24,}",
    r"fio-u-[\w-]{30,}", r"CFPAT-[\w-]{30,}", r"PMAK-[0-9a-f]{24}-[0-9a-f]{30,}",
    r"shp[a-z]{2}_[0-9a-fA-F]{32}", r"[rs]k_(?:live|test)_\w{16,}", r"whsec_[A-Za-z0-9+/]{20,}",
    r"sq0[a-z]{3}-[\w-]{22,}", r"EAA[A-Za-z0-9]{40,}", r"EZ[AT]K[A-Za-z0-9]{50,}",
    r"FLW(?:PUB|SEC)K(?:_TEST)?-[\w-]{12,}", r"(?:duffel|shippo)_(?:live|test)_[\w=-]{40,}",
    r"access-(?:sandbox|development|production)-[0-9a-f-]{36}",
    r"(?:pub)?key-[0-9a-f]{32}(?![0-9a-f])", r"xkeysib-[0-9a-f]{64}-\w{16}",
    r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}", r"pat\.[\w-]{22}\.[0-9A-Za-z]{24}\.\w{20}",
    r"[sp]k\.eyJ[\w-]{20,}\.[\w-]{16,}", r"tfp_[\w.=-]{40,}", r"pnu_[A-Za-z0-9]{36}",
    r"rdme_[a-z0-9]{70}", r"sm_[a-z]{3}_[A-Za-z0-9]{16}", r"ico-[A-Za-z0-9]{32}",
    r"p8e-[A-Za-z0-9]{32}", r"API-[A-Z0-9]{26}", r"[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk",
)  # fmt: skip


@cache
def shapes() -> re.Pattern[str]:
    """All of them as one regular expression."""
    from detect_secrets.plugins.aws import AWSKeyDetector
    from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
    from detect_secrets.plugins.discord import DiscordBotTokenDetector
    from detect_secrets.plugins.github_token import GitHubTokenDetector
    from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
    from detect_secrets.plugins.jwt import JwtTokenDetector
    from detect_secrets.plugins.mailchimp import MailchimpDetector
    from detect_secrets.plugins.npm import NpmDetector
    from detect_secrets.plugins.openai import OpenAIDetector
    from detect_secrets.plugins.pypi_token import PypiTokenDetector
    from detect_secrets.plugins.sendgrid import SendGridDetector
    from detect_secrets.plugins.slack import SlackDetector
    from detect_secrets.plugins.square_oauth import SquareOAuthDetector
    from detect_secrets.plugins.stripe import StripeDetector
    from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
    from detect_secrets.plugins.twilio import TwilioKeyDetector

    kept: list[Any] = [
        AWSKeyDetector, AzureStorageKeyDetector, DiscordBotTokenDetector, GitHubTokenDetector,
        GitLabTokenDetector, JwtTokenDetector, MailchimpDetector, NpmDetector, OpenAIDetector,
        PypiTokenDetector, SendGridDetector, SlackDetector, SquareOAuthDetector, StripeDetector,
        TelegramBotTokenDetector, TwilioKeyDetector,
    ]  # fmt: skip
    found = [*REPOSITORIES, *MODELS, *CLOUDS, *VAULTS, *SERVICES] + [
        f"(?{'i' if pattern.flags & re.IGNORECASE else ''}:{pattern.pattern})"
        for detector in kept
        for pattern in detector.denylist
    ]
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(found)})")


@cache
def names() -> re.Pattern[str]:
    """The end of a field's name by which ``detect-secrets`` takes it for a credential."""
    from detect_secrets.plugins.keyword import DENYLIST

    return re.compile(rf"(?:{'|'.join(DENYLIST)})$", re.IGNORECASE)
