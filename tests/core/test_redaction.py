"""What is hidden of args and meta, by the names of its keys."""

from __future__ import annotations

import json

import pytest

from oban_sync.core.errors import InvalidJobError
from oban_sync.core.redaction import HIDDEN, is_hidden, redacted, restored, written


@pytest.mark.parametrize(
    "key",
    [
        *(
            "password",
            "user_password",
            "userPassword",
            "PASSWORD",
            "passwd",
            "secret",
            "client-secret",
        ),
        *(
            "token",
            "accessToken",
            "X-Api-Key",
            "apiKey",
            "APIKEY",
            "api key",
            "authorization",
            "auth",
        ),
        *(
            "card",
            "card_number",
            "cardNumber",
            "creditcard",
            "cvv",
            "CVV2",
            "private_key",
            "cookies",
        ),
        *(
            "cards",
            "pincode",
            "pin_code",
            "cardnumber",
            "otps",
            "PINs",
            "IBANs",
            "JWTs",
            "userPINs",
        ),
        *("pass", "passcode", "signing_key", "encryptionKey", "ssh_key", "security_code"),
        *("mfa_code", "account_number", "dsn", "DATABASE_URL"),
    ],
)
def test_what_a_key_hides(key):
    assert is_hidden(key)


@pytest.mark.parametrize(
    "key",
    [
        *("discarded", "author", "pinned", "shipping", "user", "id", "", "keys", "cardinal", "é"),
        *("passenger", "passes", "keyboard", "key", "public_key", "compass", "spin", "opinion"),
        *("account", "security", "code", "database", "url", "design", "bypass", "authors"),
    ],
)
def test_what_a_key_does_not_hide(key):
    assert not is_hidden(key)


def test_words_of_ones_own_are_taken_however_they_are_spelled():
    assert is_hidden("home_address", ["Home-Address"])
    assert is_hidden("homeAddress", ["home_address"])
    assert not is_hidden("password", ["home_address"])
    assert not is_hidden("password", [])
    assert not is_hidden("", [""])


def test_values_are_hidden_at_any_depth_and_nothing_is_changed():
    value = {"user": {"name": "Ann", "password": {"old": 1}}, "list": [{"token": "x"}], "pin": None}
    before = repr(value)

    assert redacted(value) == {
        "user": {"name": "Ann", "password": HIDDEN},
        "list": [{"token": HIDDEN}],
        "pin": None,
    }
    assert repr(value) == before
    assert redacted(value, ()) == value
    assert redacted("text") == "text"


def test_what_is_too_deep_is_hidden():
    deep = value = {}

    for _ in range(200):
        deep["x"] = deep = {}

    assert HIDDEN in repr(redacted(value))
    assert HIDDEN not in repr(redacted(value, ()))


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("2fa", "2fa"),
        ("2fa", "user_2FA"),
        ("x509", "x509Cert"),
        ("clé", "clé"),
        ("clé", "maClé"),
        ("clé", "cle\u0301"),
        ("PINs", "pins"),
        ("日本", "日本"),
    ],
)
def test_words_may_hold_any_letters_and_digits(word, key):
    assert is_hidden(key, [word])
    assert not is_hidden("clément", [word])


def test_what_is_written_is_what_is_redacted_up_to_some_length():
    value = {
        "user": {'né "x"': [1, 1.5, True, None, [], {}, "a\nb"], "password": [1]},
        "list": [{"token": "t"}, {"pin": None}],
    }

    for indent in (None, 2):
        whole = json.dumps(redacted(value), indent=indent, ensure_ascii=False)

        assert written(value, most=1_000, indent=indent) == (whole, True)

        for most in range(1, len(whole)):
            assert written(value, most=most, indent=indent) == (whole[:most], False)


def test_of_what_is_not_written_nothing_is_looked_at():
    unread = object()

    assert written({"a": ["x" * 300], "b": unread}, most=200) == ('{"a": ["' + "x" * 192, False)

    with pytest.raises(TypeError):
        written({"b": unread}, most=200)


def test_an_edited_copy_gets_back_what_was_hidden():
    original = {"token": "t", "user": {"secret": [1]}, "list": [{"pin": 1}, {"pin": 2}], "n": 1}
    edited = redacted(original)
    edited["n"] = 2

    assert restored(edited, original) == {**original, "n": 2}
    assert restored({"token": "new"}, original) == {"token": "new"}
    assert restored({"name": HIDDEN}, {"name": HIDDEN}) == {"name": HIDDEN}
    assert restored({"token": HIDDEN}, {"token": "t"}, ()) == {"token": HIDDEN}


ACCOUNTS = {
    "accounts": [{"name": "a", "password": "A"}, {"name": "b", "password": "B", "pin": 1}],
    "password": "C",
}


def test_entries_of_a_list_keep_what_is_theirs_wherever_they_stand():
    first, second = redacted(ACCOUNTS)["accounts"]
    a, b = ACCOUNTS["accounts"]

    for edited, expected in [
        ([second], [b]),
        ([second, first], [b, a]),
        ([first, {"name": "new"}, second], [a, {"name": "new"}, b]),
        ([first, {**second, "password": "new"}], [a, {**b, "password": "new"}]),
        ([], []),
    ]:
        found = restored({"accounts": edited}, ACCOUNTS)

        assert found == {"accounts": expected}


@pytest.mark.parametrize(
    ("edited", "path"),
    [
        ({"pwd2": HIDDEN}, "args.pwd2"),
        ({"name": HIDDEN}, "args.name"),
        ({"password": {"old": HIDDEN}}, "args.password.old"),
        ({"accounts": [{"name": "c", "password": HIDDEN}]}, "args.accounts[0].password"),
        # One that is as long as the original, but whose entry is another.
        (
            {"accounts": [{"name": "a", "password": "x"}, {"name": "c", "password": HIDDEN}]},
            "args.accounts[1].password",
        ),
        ({"accounts": [HIDDEN, HIDDEN]}, "args.accounts[0]"),
    ],
)
def test_nobody_gets_the_secret_of_another(edited, path):
    with pytest.raises(InvalidJobError, match="give its value") as failure:
        restored(edited, ACCOUNTS)

    assert failure.value.option == path


def test_entries_that_look_the_same_are_told_apart_by_their_places_alone():
    original = {"list": [{"pin": 1}, {"pin": 2}, {"n": 1}]}
    edited = redacted(original)
    edited["list"][2]["n"] = 2

    assert restored(edited, original) == {"list": [{"pin": 1}, {"pin": 2}, {"n": 2}]}

    edited["list"].append({"pin": HIDDEN})

    with pytest.raises(InvalidJobError, match="list\\[0\\].pin"):
        restored(edited, original)


def test_a_number_is_no_flag_where_entries_are_compared():
    original = {"list": [{"on": 1, "pin": 7}]}

    with pytest.raises(InvalidJobError):
        restored({"list": [{"on": True, "pin": HIDDEN}]}, original)


def test_what_is_nested_too_deep_to_be_compared_is_refused():
    deep = []

    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(InvalidJobError, match="args: is nested too deep"):
        restored({"list": deep}, {})

    while deep:
        deep = deep.pop()
