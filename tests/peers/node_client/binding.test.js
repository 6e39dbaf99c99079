// zookeeper: the C client in node.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { test } = require('node:test');
const ZooKeeper = require('zookeeper');

const base = `/node-binding-${process.pid}`;
const { ZOO_EPHEMERAL, ZOO_SEQUENCE, ZOO_PERSISTENT } = ZooKeeper.constants;

async function connect() {
    const client = new ZooKeeper({
        connect: process.env.SERVER,
        timeout: 10000,
        debug_level: ZooKeeper.constants.ZOO_LOG_LEVEL_ERROR,
        host_order_deterministic: false,
    });
    const connected = once(client, 'connect');
    client.init({});
    await connected;
    return client;
}

// Clients that are closed however the test ends: an open one would keep the process.
async function withClients(count, run) {
    const clients = await Promise.all(Array.from({ length: count }, connect));
    try {
        await run(...clients);
    } finally {
        clients.forEach((client) => client.close());
    }
}

test('nodes, versions and errors', () => withClients(1, async (zk) => {
    assert.equal(await zk.create(base, 'one', ZOO_PERSISTENT), base);
    let [stat, data] = await zk.get(base, false);
    assert.equal(data.toString(), 'one');
    stat = await zk.set(base, 'two', stat.version);
    assert.equal(stat.version, 1);
    await assert.rejects(zk.set(base, 'three', 0), /-103 bad version/);
    await assert.rejects(zk.get(`${base}/nobody`, false), /-101 no node/);
    await zk.create(`${base}/s-`, 'x', ZOO_SEQUENCE);
    assert.deepEqual(await zk.get_children(base, false), ['s-0000000000']);
    await zk.delete_(`${base}/s-0000000000`, 0);
    assert.equal((await zk.exists(base, false)).numChildren, 0);
}));

test('ephemerals go with their session, and a watch tells so', () => withClients(2, async (owner, other) => {
    await owner.create(`${base}-e`, 'x', ZOO_EPHEMERAL);
    const event = new Promise((resolve) =>
        other.aw_exists(`${base}-e`, (type, state, path) => resolve({ type, path }), () => owner.close()));
    assert.deepEqual(await event, { type: ZooKeeper.constants.ZOO_DELETED_EVENT, path: `${base}-e` });
}));
