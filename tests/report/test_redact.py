"""What is taken for a credential, and what looks like one and stays. No value here is real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.ledger.files import file_name, read_ledger, write_result
from coincide.report.build import build_report
from coincide.terminal.redact import is_secret_variable, redact
from tests.report.fixture import ledger

PIN = "zq7kzq7k"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ"
HIDDEN = [
    f"https://acc.blob.example.net/c?sv=2020&sr=c&sig={PIN}%2Fd%3D",
    f"https://s3.example.com/x?X-Amz-Credential={PIN}&X-Amz-Signature={PIN}&X-Amz-Date=1",
    f"https://example.org/a?auth={PIN}&pwd={PIN}&n=3",
    f"https://example.org/cb#access_token={PIN}&token_type=bearer",
    f"https://example.org/cb#/route?id_token={PIN}",
    f"https://example.org/x?Api%5FKey={PIN}",
    f"https://user:a/{PIN}@host.example/x",
    f"https://user:{PIN}@@host/x",
    f"https://user:{PIN}#b@host.example:8000/x",
    f"postgres://user:{PIN}@db:5432/x",
    f"https://{PIN}@github.example/a/b@main",
    f"/relative?sig={PIN}",
    f"+eval.judge={{url: x, api_key: {PIN}, n: 3}}",
    f"+eval.judge={{auth: {{password: '{PIN} {PIN}'}}}}",
    f'{{"token": "{PIN}"}}',
    f"judge.pw={PIN}",
    f"--password={PIN}",
    f"Authorization: Bearer {PIN}",
    f"{{'Authorization': 'Basic {PIN}=='}}",
    f"Cookie: a=1; session={PIN}",
    f"the server said: api_key: {PIN}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{PIN}\n-----END RSA PRIVATE KEY-----",
    *(
        f"in a text {prefix}{PIN}{LETTERS[:size]}, and on"
        for prefix, size in {
            "glpat-": 12, "npm_": 28, "ghp_": 28, "ghs_": 28, "github_pat_": 60, "AIza": 27,
            "wandb_v1_": 30, "hf_": 26, "sk-": 40, "sk-proj-": 40, "sk-ant-api03-": 40, "gsk_": 40,
            "tvly-": 24, "pplx-": 40, "xai-": 40, "sk_test_": 20, "whsec_": 24, "glsa_": 36,
            "figd_": 32, "hf_oauth_": 24, "lin_api_": 34, "phc_": 36, "ntn_": 38, "CFPAT-": 40,
            "dp.pt.": 35, "ATATT3": 60, "pscale_tkn_": 34, "sntrys_": 40, "tskey-auth-": 24,
            "rpa_": 34,
            "GOCSPX-": 22, "fo1_": 34, "glc_": 34, "sq0atp-": 16, "ico-": 24, "nfp_": 28,
            "hvb.": 40,
        }.items()
    ),
    f"xoxb-123456789012-{PIN}",
    f"AKIA{PIN.upper()}ABCDEFGH",
    f"eyJhbGciOiJIUzI1NiJ9.{PIN}{LETTERS}.{PIN}",
    f"AccountKey={PIN}{'a' * 78}==",
    f"https://example.org/x?next=https%3A%2F%2Fb.example%2F%3Fsig%3D{PIN}&n=1",
    f"https://example.org/f?code={PIN}", f"https://example.org/x?hmac={PIN}&sas={PIN}",
    f"//user:{PIN}@host.example/x", f"cloned from user:{PIN}@host.example/x.git",
    f"judge --api-key {PIN} --n 3", f"aws_secret_access_key = {PIN}",
    f"mysql -u root -p{PIN} db", f"docker login -u me -p {PIN} host",
    f"sshpass -p '{PIN}' ssh host",
    f"curl -s -u me:{PIN} https://a.example", f"curl --user 'me:{PIN}' a",
    f"redis-cli -h a -a {PIN}",
    f"curl -H 'Token: {PIN}' a", f"java -password {PIN}", f"machine a login me password {PIN}x",
    f"<password>{PIN}</password>", f"SECRET_KEY := {PIN}", f"auth_token => {PIN}",
    f'password": "{PIN}', f"user:{PIN}@10.0.0.1:80", f"Incorrect API key provided: {PIN}",
    f"https://a.example/paste#{PIN}ABcd0123456789", f"https://a.example/;jsessionid={PIN}?n=1",
    f"https://d.example/x?Policy={PIN}__&Key-Pair-Id={PIN}", f"dsn=https://{PIN}@host.example/1",
    f"Server=a;User ID=b;Pwd={PIN};", f"Endpoint=sb://x/;SharedAccessKey={PIN}=",
    f"https://discord.com/api/webhooks/123456789012/{PIN}{LETTERS}",
    f"https://api.example.org/bot123456789:AA{PIN}{LETTERS[:25]}/send",
]  # fmt: skip
FIELDS = [
    "pass", "pw", "pwd", "auth", "authorization", "cookie", "secret", "token", "api_key", "apiKey",
    "sas", "hmac", "webhook", "session", "session_id", "dsn", "connection_string", "connStr",
    "passcode", "ticket", "csrfToken", "bindpw", "redis_pass", "private_key_pem", "secret_id",
    "webhook_url", "consumer_key", "contraseña", "credentials_json",
    "hfToken", "hftoken", "client_secret", "db_pass", "access_key", "X-Api-Key", "password2",
]  # fmt: skip
STAYS: list[Any] = [
    "8f3c2d1e4b5a69788f3c2d1e4b5a69788f3c2d1e",
    "sha256:" + "ab" * 32,
    "store/subset/coincide-demo-0.2-f205047759d0",
    "hf_dataset_annotations_2024.json", "sk-learn-features-2024-extended",
    "task-0123456789abcdef01",
    "npm_install_log_of_the_build.txt", "risk-proj-abcdefghijklmnopqrst",
    "git@github.com:owner/repo", "https://host:8080/path@v1", "https://host/img@2x.png?page=3",
    "https://huggingface.co/a/b/resolve/main/x.json?download=true", "method.token_scores=last",
    "answer tokens: 2043, token=5, max_token=16", "sort_key=loss", "one_pass=clip", "monkey=yes",
    "the token: a word of the text", "Basic understanding of things", "eval.judge.key_env=NAME",
    "judge.token=${oc.env:TOKEN}", "seed=0,1,2", "key: value",
    "docker run -p 8080:80 -u 1000:1000 x",
    "git push -u origin main:branch", "mysql -u root -p", "start_new_session=True",
    "a password is asked",
    "https://docs.example/page#The-Section-on-Adapters", "https://example.org/a#L120-L140",
    "LlavaNextForConditionalGeneration", "mkdir -p a/b && curl -sL a.example", "<key>name</key>",
    "MobileNetV3Small050ImageNet1k", "access-control-2024", "keyword=a, monkey=b, hockey=c",
    {
        "max_tokens": 16, "token": 5, "pad_token": "<pad>", "key": "f205047759d0", "use_auth": True,
        "key_env": "OPENAI_API_KEY", "artifact_key": "x", "keys": {"subset": "a-f205047759d0"},
        "token_scores": "mean", "feature_pass": "reference", "pass": 1, "api_key": None,
        "secret": "${oc.env:X}", "tokenizer": "bpe", "author": "me", "passes": ["a"],
    },
]  # fmt: skip


@pytest.mark.parametrize("text", HIDDEN)
def test_credentials_are_cut_out_of_texts(text: str) -> None:
    shown = redact(text)
    assert PIN not in shown.lower() and PIN[:4] not in shown.lower()
    assert redact(shown) == shown
    assert PIN not in json.dumps(redact({"a": [text, {"b": text}]})).lower()


@pytest.mark.parametrize("name", FIELDS)
def test_fields_named_like_credentials_are_dropped(name: str) -> None:
    assert redact({"a": {name: PIN, "b": 1}}) == {"a": {"b": 1}}
    assert redact([f"+x.{name}={PIN}", "b=1"]) == ["b=1"]
    if "_" not in name:
        assert PIN not in str(redact([f"--{name}", PIN, "b=1"]))


@pytest.mark.parametrize("value", STAYS, ids=str)
def test_what_only_looks_like_one_stays(value: Any) -> None:
    kept = {k: v for k, v in value.items() if k != "api_key"} if isinstance(value, dict) else value
    assert redact(kept, {}) == kept


def test_values_of_secret_variables_are_cut() -> None:
    environ = {"JUDGE_TOKEN": "correct horse", "HOME": "/home/someone", "PWD": "/work/folder"}
    shown = redact(["say correct horse", "/home/someone and /work/folder"], environ)
    assert shown == ["say [removed]", "/home/someone and /work/folder"]
    assert is_secret_variable("AWS_SECRET_ACCESS_KEY") and not is_secret_variable("OLDPWD")


def test_no_format_of_ledger_and_report_has_one(tmp_path: Path) -> None:
    config = {"texts": HIDDEN, "overrides": HIDDEN, **dict.fromkeys(FIELDS, PIN)}
    for result in ledger():
        scores = tuple(replace(s, why=HIDDEN[0], protocol=HIDDEN[1]) for s in result.scores)
        told = replace(result, config=config, scores=scores, suite=f"s {HIDDEN[2]}")
        path = write_result(tmp_path / "ledger", told)
        assert path.name == file_name(told)
    results = read_ledger(tmp_path / "ledger")
    assert {file_name(r) for r in results} == {p.name for p in (tmp_path / "ledger").iterdir()}
    build_report(results, tmp_path / "reports", None)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {".json", ".html", ".md", ".csv"} <= {p.suffix for p in files}
    assert [p.name for p in files if PIN.encode() in p.read_bytes().lower()] == []
