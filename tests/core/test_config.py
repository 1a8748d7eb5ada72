"""Options of an Oban: from arguments, the environment and the file."""

from __future__ import annotations

import pytest

from oban_sync import ConfigError, Oban
from oban_sync.core.config import Config, mask
from oban_sync.settings import resolve

DSN = "postgresql://localhost/app"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quues": {}}, ["quues", "unknown", "queues"]),
        ({"queues": {"default": 0}}, ['queues["default"]', "1 to 10,000"]),
        ({"queues": {"default": -1}}, ['queues["default"]', "-1"]),
        ({"queues": {"default": True}}, ['queues["default"]', "True"]),
        ({"queues": {"default": 1.5}}, ["1.5"]),
        ({"queues": {"default": {"limt": 1}}}, ['queues["default"].limt', "limit"]),
        ({"queues": {"default": {}}}, ['queues["default"].limit', "missing"]),
        ({"queues": {"": 1}}, ["queues", "blank"]),
        ({"queues": {"x" * 128: 1}}, ["queues", "127"]),
        ({"queues": {7: 1}}, ["queues", "string"]),
        ({"queues": ["default"]}, ["queues", "mapping"]),
        ({"queues": "default"}, ["queues", "name:limit"]),
        ({"queues": "a:1,a:2"}, ["queues", "twice"]),
        ({"queues": "a:2;b:3"}, ["queues", "name:limit"]),
        ({"queues": "a b:2"}, ["queues", "name:limit"]),
        ({"conninfo": "mysql://h/d"}, ["conninfo", "PostgreSQL"]),
        ({"prefix": 'a"b'}, ["prefix"]),
        ({"prefix": ""}, ["prefix"]),
        ({"prefix": "x" * 64}, ["prefix", "49"]),
        ({"prefix": "1a"}, ["prefix"]),
        ({"prefix": "a b"}, ["prefix"]),
        ({"name": "a b"}, ["name", "spaces"]),
        ({"node": ""}, ["node"]),
        ({"shutdown_grace_period": -1}, ["shutdown_grace_period", "0 or more"]),
        ({"shutdown_grace_period": float("nan")}, ["shutdown_grace_period"]),
        ({"pool_size": 0}, ["pool_size"]),
        ({"pool": object()}, ["pool", "ConnectionPool"]),
        ({"imports": ["a-b"]}, ["imports", "module"]),
        ({"imports": 5}, ["imports"]),
        ({"stager": {"intervall": 1}}, ["stager.intervall", "interval"]),
        ({"stager": {"interval": 0}}, ["stager.interval"]),
        ({"conninfo": ""}, ["conninfo"]),
        ({"conninfo": 5}, ["conninfo"]),
    ],
    ids=lambda value: str(value).split(" at 0x")[0],
)
def test_a_wrong_option_is_named_with_what_is_allowed(options, words):
    with pytest.raises(ConfigError) as caught:
        Oban(**{"conninfo": DSN, **options})

    for word in words:
        assert word in str(caught.value)


def test_without_a_database_the_error_lists_where_one_could_be_given():
    with pytest.raises(ConfigError, match="OBAN_DSN"):
        Oban()


def test_arguments_win_over_the_environment_and_that_over_the_file(monkeypatch, tmp_path):
    (tmp_path / "oban.toml").write_text(
        'conninfo = "postgresql://file/db"\nprefix = "file"\nname = "File"\n[queues]\ndefault = 3\n'
    )
    monkeypatch.chdir(tmp_path)

    assert resolve({}).conninfo == "postgresql://file/db"

    monkeypatch.setenv("DATABASE_URL", "postgresql://url/db")
    monkeypatch.setenv("OBAN_PREFIX", "env")
    monkeypatch.setenv("OBAN_QUEUES", "mailers:4, default:2")

    found = resolve({"name": "Arg"})

    assert (found.conninfo, found.prefix, found.name) == ("postgresql://url/db", "env", "Arg")
    assert {queue.name: queue.limit for queue in found.queues} == {"mailers": 4, "default": 2}

    monkeypatch.setenv("OBAN_DSN", "postgresql://dsn/db")

    assert resolve({}).conninfo == "postgresql://dsn/db"
    assert resolve({"conninfo": DSN}).conninfo == DSN


def test_numbers_and_objects_come_from_the_environment_as_text(monkeypatch):
    monkeypatch.setenv("OBAN_SHUTDOWN_GRACE_PERIOD", "2.5")
    monkeypatch.setenv("OBAN_POOL_SIZE", "7")
    monkeypatch.setenv("OBAN_STAGER", '{"interval": 0.5}')

    found = resolve({"conninfo": DSN})

    assert (found.shutdown_grace_period, found.pool_size, found.stager.interval) == (2.5, 7, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [("quues = 1", ["oban.toml", "quues", "queues"]), ("= 1", ["oban.toml", "TOML"])],
)
def test_a_mistake_in_the_file_is_told_with_its_name(monkeypatch, tmp_path, text, words):
    (tmp_path / "oban.toml").write_text(text)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as caught:
        resolve({"conninfo": DSN})

    for word in words:
        assert word in str(caught.value)


def test_a_file_that_was_named_must_be_there(monkeypatch):
    monkeypatch.setenv("OBAN_CONFIG", "nowhere.toml")

    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        resolve({"conninfo": DSN})


def test_broken_json_in_the_environment_is_told_with_the_variable(monkeypatch):
    monkeypatch.setenv("OBAN_STAGER", "{interval")

    with pytest.raises(ConfigError, match="OBAN_STAGER"):
        resolve({"conninfo": DSN})


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://h/d", "postgres+psycopg2://h/d", "postgresql://h/d"]
)
def test_urls_as_sqlalchemy_writes_them_are_understood(url):
    assert resolve({"conninfo": url}).conninfo == "postgresql://h/d"


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://user:s3cret@host/db",
        "postgresql://user:s3cret@host/db?sslmode=disable",
        "postgresql://host/db?user=u&password=s3cret",
        "host=h password=s3cret dbname=d",
        "host=h password='s3 cret s3cret' dbname=d",
        "postgresql://user:s3cret@[bad/db",
        "host=h password=pa&s3cret",
        "host=h password=a\\ s3cret dbname=d",
        "host=h sslpassword=s3cret",
        "postgresql://h/d?pass%77ord=s3cret&user=u",
        "postgresql://h/d?user=u&sslpassword=s3cret",
    ],
)
def test_passwords_are_masked_wherever_a_conninfo_is_shown(conninfo):
    assert "s3cret" not in mask(conninfo)
    assert "s3cret" not in repr(Oban(conninfo))
    assert "s3cret" not in repr(Config(conninfo=conninfo, listen_conninfo=conninfo))


def test_a_password_does_not_appear_in_the_error_about_another_option():
    with pytest.raises(ConfigError) as caught:
        Oban("postgresql://u:s3cret@h/d", pool=type("P", (), {"connection": 1, "conninfo": ""})())

    assert "s3cret" not in str(caught.value)


def test_configure_changes_options_and_keeps_the_others():
    oban = Oban(DSN, prefix="jobs")
    oban.configure(queues="default:3", node=None)

    assert "prefix=jobs queues=default:3" in repr(oban)

    with pytest.raises(ConfigError, match="quues"):
        oban.configure(quues=1)


def test_a_conninfo_that_cannot_be_read_is_told_without_its_password():
    from oban_sync.engine.connections import transport

    for text in ("mysql+x:pass=1://u:s3cret@h/d", "hots=h password=s3cret"):
        with pytest.raises(ConfigError) as caught:
            transport(text)

        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", ["off", "OFF", False])
def test_listening_can_be_turned_off(value):
    assert (
        Config.checked({"conninfo": "dbname=x", "listen_conninfo": value}).listen_conninfo == "off"
    )


def test_a_listen_conninfo_that_is_none_is_refused_by_its_own_name():
    with pytest.raises(ConfigError, match='^listen_conninfo: .*or "off"'):
        Config.checked({"conninfo": "dbname=x", "listen_conninfo": "nope"})
