"""What golden.py and takeover.py fill a server with: every kind of change, once."""

import struct
from collections import namedtuple

from kazoo import security
from kazoo.exceptions import KazooException
from kazoo.protocol import serialization


class CreateKind(namedtuple("CreateKind", "path data acl flags ttl")):
    """create2, createContainer and createTTL, which kazoo does not have."""

    @property
    def type(self):
        return {4: 19, 5: 21, 6: 21}.get(self.flags, 15)

    def serialize(self):
        create = serialization.Create(self.path, self.data, self.acl, self.flags).serialize()
        return bytes(create) + (struct.pack("!q", self.ttl) if self.type == 21 else b"")

    @classmethod
    def deserialize(cls, data, offset):
        return serialization.read_string(data, offset)[0]


def create_kind(client, path, data, flags=0, ttl=0):
    result = client.handler.async_result()
    client._call(CreateKind(path, data, security.OPEN_ACL_UNSAFE, flags, ttl), result)
    return result.get(10)


def fails(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except KazooException:
        return
    raise AssertionError(f"{call} {args} did not fail")


def first_run(client, closing, with_ttl=True):
    """Everything once. The server has to be told to allow nodes with a time to live."""
    client.create("/null", None)
    client.create("/empty", b"")
    client.create("/data", b"\x00\x01binary\xff")
    client.create("/large", b"0123456789" * 100)
    client.create("/ünïcode", "Grüße".encode())
    client.create("/ünïcode/日本 語", b"x")
    client.create("/a/b/c/d/e/f", b"deep", makepath=True)
    for _ in range(3):
        client.create("/seq/n-", b"s", sequence=True, makepath=True)
    client.create("/seq/", b"", sequence=True)

    digest = security.make_digest_acl("user", "password", read=True, write=True)
    client.create("/acl", b"", acl=[digest])
    client.create("/acl-two", b"", acl=[digest, security.make_acl("ip", "127.0.0.0/8", all=True)])
    client.create("/acl-read", b"", acl=security.READ_ACL_UNSAFE)
    client.create("/acl-same", b"", acl=[digest])
    client.set_acls("/data", [security.make_acl("world", "anyone", read=True, write=True)])
    client.set_acls("/null", [digest, security.make_acl("world", "anyone", read=True, admin=True)])
    client.set_acls("/null", security.OPEN_ACL_UNSAFE)

    client.create("/ephemeral", b"e", ephemeral=True)
    client.create("/seq/e-", None, ephemeral=True, sequence=True)
    create_kind(client, "/create2", b"2")
    create_kind(client, "/container", b"", 4)
    create_kind(client, "/container/child", b"in it")
    if with_ttl:
        create_kind(client, "/ttl", b"t", 5, 3_600_000)
        create_kind(client, "/ttl-", None, 6, 1 << 39)

    client.set("/data", b"changed")
    client.set("/data", None)
    client.set("/data", b"again")
    client.set("/null", b"")
    client.set("/empty", None)
    client.create("/gone", b"")
    client.create("/gone/child", b"")
    client.delete("/gone/child")
    client.delete("/gone")
    client.delete("/seq/n-0000000001")

    fails(client.create, "/data", b"")
    fails(client.delete, "/a")
    fails(client.set, "/absent", b"")
    fails(client.set, "/data", b"", version=77)
    fails(client.get, "/acl")

    multi = client.transaction()
    multi.create("/multi", b"m")
    multi.create("/multi/s-", b"m", sequence=True)
    multi.check("/multi", 0)
    multi.set_data("/multi", b"m2")
    multi.create("/multi/gone", b"")
    multi.delete("/multi/gone")
    assert not any(isinstance(result, Exception) for result in multi.commit())
    multi = client.transaction()
    multi.create("/multi/not", b"")
    multi.delete("/absent")
    multi.set_data("/multi", b"not")
    assert any(isinstance(result, Exception) for result in multi.commit())

    client.create("/quota-on", b"12345")
    client.create("/zookeeper/quota/quota-on", b"")
    client.create("/zookeeper/quota/quota-on/zookeeper_limits", b"count=10,bytes=1000")
    client.create("/zookeeper/quota/quota-on/zookeeper_stats", b"count=0,bytes=0")
    client.create("/quota-on/child", b"678")

    closing.create("/ephemeral-of-closed", b"", ephemeral=True)
    closing.create("/seq/closed-", b"", ephemeral=True, sequence=True)


def second_run(client):
    """After the snapshot: changes of what is in it, and what is new."""
    client.set("/null", b"not any more")
    client.set("/quota-on/child", b"67890")
    client.create("/seq/n-", b"s", sequence=True)
    client.create("/acl-new", b"", acl=[security.make_digest_acl("other", "secret", all=True)])
    client.set_acls("/ünïcode", security.READ_ACL_UNSAFE)
    client.delete("/container/child")
    client.delete("/multi/s-0000000000")
    client.create("/a/b/c/again", None)
    client.create("/ephemeral-second", b"", ephemeral=True)
    fails(client.delete, "/absent")
