"""What a broker may be given: URLs, clients and options; and that no password is ever repeated."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import aio_pika
import pytest
import redis.asyncio

from imperfect_dollop import Node
from imperfect_dollop.broker import Broker
from imperfect_dollop.brokers import SCHEMES, check_url, from_url
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker
from imperfect_dollop.brokers.redis import RedisBroker
from imperfect_dollop.errors import ConfigurationError

from .school import SchoolSource, member, others, students

SECRET = "hunter2"

NAMED = {"namespace": "school"}


def backend(scheme: str) -> Callable[..., RedisBroker | RabbitMQBroker]:
    return RedisBroker if scheme.startswith("redis") else RabbitMQBroker


def texts(error: BaseException) -> str:
    """Everything that a log would show of it."""
    return "".join(traceback.format_exception(error)) + repr(error)


# -- URLs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://school", MemoryBroker),
        ("redis://localhost", RedisBroker),
        ("rediss://user:pass@example.org:6380/3", RedisBroker),
        ("amqp://localhost", RabbitMQBroker),
        ("amqps://user:pass@example.org/vhost", RabbitMQBroker),
    ],
)
async def test_a_scheme_has_its_backend(url: str, kind: type[Broker]) -> None:
    check_url(url)
    broker = from_url(url)
    assert type(broker) is kind
    await broker.aclose()
    await broker.aclose()


def test_every_scheme_is_tested() -> None:
    assert SCHEMES == ("memory", "redis", "rediss", "amqp", "amqps")


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://", "redis://localhost:6379"),
        ("redis://:hunter2@example.org", "redis://example.org:6379"),
        ("rediss://user:hunter2@example.org:6380/3", "rediss://example.org:6380"),
        ("amqp://user:hunter2@example.org", "amqp://example.org:5672"),
        ("amqps://user:hunter2@example.org/school", "amqps://example.org:5671"),
        ("amqp://user:hunter2@example.org:5673", "amqp://example.org:5673"),
    ],
)
def test_errors_say_where_and_not_who(url: str, where: str) -> None:
    assert backend(url.partition(":")[0])(url).where == where


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "amqps"])
@pytest.mark.parametrize(
    "rest",
    [
        f"user:{SECRET}@host:port",
        f"user:{SECRET}@host:99999",
        f"user:{SECRET}@[host",
        f"user:{SECRET}\u2100@host",  # ℀, which would become a slash
        f"user:{SECRET}/more@host",
        f"user:{SECRET}?more@host",
        f"user:{SECRET}#more@host",
        f"user:12/{SECRET}@host",  # its beginning passes for a port
        f"user:x@{SECRET}/y@host",  # and this for a host
        f"user:x@{SECRET}@host",
        f":12#{SECRET}@host",
        f"user:p@ss/{SECRET}@host",  # its beginning passes for a host
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_repeating_it(scheme: str, rest: str) -> None:
    for make in (from_url, backend(scheme)):
        with pytest.raises(ConfigurationError, match=f"{scheme}://") as refused:
            make(f"{scheme}://{rest}")
        assert SECRET not in texts(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redi://user:{SECRET}@host",
        f"user:{SECRET}@host",
        f"//user:{SECRET}@host",
        f"user:{SECRET}@amqp://host",
        f"http://user:{SECRET}\u2100@[host",
    ],
)
def test_a_url_without_a_backend_is_not_repeated(url: str) -> None:
    for make in (check_url, from_url, Node):
        with pytest.raises(ConfigurationError, match="names no broker") as refused:
            make(url)
        assert SECRET not in texts(refused.value)


@pytest.mark.parametrize(
    "given", [f"amqp://u:{SECRET}@h".encode(), f"redis://u:{SECRET}@h".encode(), None, 5]
)
def test_what_is_no_server_is_not_repeated(given: Any) -> None:
    for make in (RedisBroker, RabbitMQBroker, Node):
        with pytest.raises(ConfigurationError, match=type(given).__qualname__) as refused:
            make(given)
        assert SECRET not in texts(refused.value)


@pytest.mark.parametrize(
    ("make", "url"),
    [
        (RedisBroker, f"http://user:{SECRET}@host"),
        (RedisBroker, f"amqp://user:{SECRET}@host"),
        (RabbitMQBroker, f"http://user:{SECRET}@host"),
        (RabbitMQBroker, f"redis://user:{SECRET}@host"),
        (RabbitMQBroker, "amqp://"),
        (RabbitMQBroker, f"amqp://user:{SECRET}@"),
        (RedisBroker, f"redis://user:{SECRET}@host?nonsense=1"),
        (RedisBroker, f"redis://user:{SECRET}@host/school"),
        (RabbitMQBroker, f"amqps://user:{SECRET}@host?cafile=nowhere.pem"),
        (RabbitMQBroker, f"amqps://user:{SECRET}@host?cadata=x"),
        (RedisBroker, f"redis://user:{SECRET}@host?db=three"),
        (RedisBroker, f"rediss://user:{SECRET}@host?ssl_cert_reqs=sometimes"),
    ],
)
def test_a_url_that_a_backend_cannot_use(make: Callable[[str], object], url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"URL") as refused:
        make(url)
    assert SECRET not in texts(refused.value)


# -- drivers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "driver", "module", "extra"),
    [
        (f"redis://u:{SECRET}@h", "redis.asyncio", "redis", "redis"),
        (f"rediss://u:{SECRET}@h", "redis", "redis", "redis"),
        (f"amqp://u:{SECRET}@h", "aio_pika", "rabbitmq", "rabbitmq"),
        (f"amqps://u:{SECRET}@h", "aiormq", "rabbitmq", "rabbitmq"),
    ],
)
async def test_a_driver_that_is_missing_comes_with_the_line_that_installs_it(
    url: str, driver: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.startswith(f"imperfect_dollop.brokers.{module}"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)
    Node(url, namespace="school")  # the driver is asked for when the node is entered
    with pytest.raises(ConfigurationError) as missing:
        from_url(url)
    assert f"pip install 'imperfect-dollop[{extra}]'" in str(missing.value)
    assert url.partition(":")[0] in str(missing.value)
    assert driver in str(missing.value)
    assert SECRET not in texts(missing.value)
    with pytest.raises(ConfigurationError, match="pip install"):
        async with Node(url, namespace="school"):
            pass
    assert not others()


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"backlog": 0},
        {"backlog": -1},
        {"backlog": 1.5},
        {"backlog": "many"},
        {"backlog": None},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": None},
        {"timeout": "5"},
        {"prefix": ""},
        {"prefix": 5},
        {"prefix": None},
    ],
)
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_an_option_that_cannot_be_used(scheme: str, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"{name}=.*{value!r}"):
        backend(scheme)(f"{scheme}://u:{SECRET}@h", **options)


@pytest.mark.parametrize("inbox", [0, -1, 1.5, "many", None])
def test_an_inbox_that_cannot_be_used(inbox: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"inbox={inbox!r}"):
        RabbitMQBroker("amqp://localhost", inbox=inbox)


@pytest.mark.parametrize("prefix", ["a b", "a/b", "é", "x" * 101, "a\n"])
def test_a_prefix_that_rabbitmq_would_not_take(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="prefix="):
        RabbitMQBroker("amqp://localhost", prefix=prefix)


def test_an_option_that_redis_does_not_know() -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        RedisBroker("redis://localhost", nonsense=5)


async def test_options_are_not_for_a_client_that_is_handed_in() -> None:
    client = redis.asyncio.Redis()
    with pytest.raises(ConfigurationError, match="ssl_ca_certs: options are for a URL"):
        RedisBroker(client, ssl_ca_certs="ca.pem")
    assert RedisBroker(client).where == "the Redis client that was handed in"


async def test_a_client_that_decodes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisBroker(redis.asyncio.Redis(decode_responses=True))
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisBroker("redis://localhost", decode_responses=True)
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisBroker("redis://localhost?decode_responses=True")


async def test_a_client_that_does_not_await_is_refused() -> None:
    import redis as blocking

    with pytest.raises(
        ConfigurationError, match=r"redis\.asyncio\.Redis, not a redis\.client\.Redis"
    ):
        RedisBroker(blocking.Redis())  # type: ignore[arg-type]


async def test_a_tls_context_is_not_for_a_connection_that_is_handed_in() -> None:
    import ssl

    connection = aio_pika.Connection("amqp://localhost")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="ssl_context"):
        RabbitMQBroker(connection, ssl_context=ssl.create_default_context())
    assert RabbitMQBroker(connection).where == "the RabbitMQ connection that was handed in"


# -- in a node -------------------------------------------------------------------------------------


async def test_a_node_whose_url_cannot_be_used_says_so_when_it_is_entered() -> None:
    one = member(
        f"redis://user:{SECRET}@localhost?nonsense=1", SchoolSource(*students(1)), node=NAMED
    )
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="nonsense") as refused:
            await one.node.__aenter__()
        assert SECRET not in texts(refused.value)
        assert not others()
        assert not one.node.status()["open"]
        await one.node.__aexit__(None, None, None)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_server_that_is_not_there_is_told_of_without_the_password(
    scheme: str, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    url = f"{scheme}://user:{SECRET}@127.0.0.1:{unused_tcp_port}/0"
    one = member(url, SchoolSource(*students(3)), node=NAMED)
    async with one.node:
        assert one.content is not None
        failure = one.node.status()["broker"]["failure"]
        assert str(unused_tcp_port) in failure
        assert SECRET not in failure
        assert SECRET not in repr(one.node)
    assert "the broker is away" in caplog.text
    assert SECRET not in caplog.text
