// node-zookeeper-client: the protocol in JavaScript, with the short handshake of old releases.
'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { promisify } = require('node:util');
const zookeeper = require('node-zookeeper-client');

const { CreateMode, Exception, ACL, Permission, Id } = zookeeper;
const server = process.env.SERVER;
const base = `/node-javascript-${process.pid}`;

// A client whose calls give promises; each waits for its connection, and fails if none comes.
async function connect(options = {}) {
    const client = zookeeper.createClient(server, { sessionTimeout: 10000, ...options });
    const connected = new Promise((resolve, reject) => {
        client.once('connected', resolve);
        client.once('disconnected', () => reject(new Error('disconnected')));
    });
    client.connect();
    await connected;
    const calls = ['create', 'remove', 'exists', 'getData', 'setData', 'getChildren', 'getACL', 'setACL', 'mkdirp'];
    const call = (name) => (...args) =>
        new Promise((resolve, reject) =>
            client[name](...args, (error, ...results) => (error ? reject(error) : resolve(results))));
    return { client, ...Object.fromEntries(calls.map((name) => [name, call(name)])) };
}

// Clients that are closed however the test ends: an open one would keep the process.
async function withClients(count, run) {
    const clients = await Promise.all(Array.from({ length: count }, () => connect()));
    try {
        await run(...clients);
    } finally {
        clients.forEach(({ client }) => client.close());
    }
}

const fails = (promise, code) => assert.rejects(promise, (error) => error.getCode() === Exception[code]);

// Resolves with the next event of a watch.
function watch() {
    let fire;
    const event = new Promise((resolve) => (fire = resolve));
    return { fire, event };
}

test('nodes, versions and errors', () => withClients(1, async (zk) => {
    await zk.mkdirp(`${base}/a/b`);
    assert.deepEqual(await zk.create(`${base}/n`, Buffer.from('one')), [`${base}/n`]);
    let [data, stat] = await zk.getData(`${base}/n`);
    assert.equal(data.toString(), 'one');
    assert.equal(stat.version, 0);
    [stat] = await zk.setData(`${base}/n`, Buffer.from('two'), 0);
    assert.equal(stat.version, 1);
    await fails(zk.setData(`${base}/n`, Buffer.from('three'), 0), 'BAD_VERSION');
    await fails(zk.create(`${base}/n`), 'NODE_EXISTS');
    await fails(zk.getData(`${base}/nobody`), 'NO_NODE');
    await fails(zk.remove(`${base}/a`), 'NOT_EMPTY');
    const [children] = await zk.getChildren(base);
    assert.deepEqual(children.sort(), ['a', 'n']);
    assert.deepEqual(await zk.exists(`${base}/nobody`), [null]);
}));

test('ephemerals go with their session, and watches tell so', () => withClients(2, async (owner, other) => {
    await other.mkdirp(`${base}/e`);
    const [path] = await owner.create(`${base}/e/member-`, null, CreateMode.EPHEMERAL_SEQUENTIAL);
    assert.match(path, /member-\d{10}$/);
    const [node, children] = [watch(), watch()];
    const [stat] = await other.exists(path, node.fire);
    assert.deepEqual(stat.ephemeralOwner, owner.client.getSessionId());
    await other.getChildren(`${base}/e`, children.fire);
    owner.client.close();
    assert.equal((await node.event).getName(), 'NODE_DELETED');
    assert.equal((await children.event).getName(), 'NODE_CHILDREN_CHANGED');
}));

test('transactions are carried out as a whole or not at all', () => withClients(1, async (zk) => {
    await zk.mkdirp(`${base}/t`);
    const commit = (transaction) => promisify(transaction.commit.bind(transaction))();
    const results = await commit(
        zk.client.transaction()
            .create(`${base}/t/a`, Buffer.from('x'))
            .check(`${base}/t/a`, 0)
            .setData(`${base}/t/a`, Buffer.from('y'), 0));
    assert.equal(results.length, 3);
    await assert.rejects(commit(
        zk.client.transaction().remove(`${base}/t/a`).check(`${base}/t`, 99)));
    const [data] = await zk.getData(`${base}/t/a`);
    assert.equal(data.toString(), 'y');
}));

test('digest authentication and access control', () => withClients(2, async (zk, stranger) => {
    await zk.mkdirp(`${base}/acl`);
    zk.client.addAuthInfo('digest', Buffer.from('me:secret'));
    await zk.create(`${base}/acl/mine`, Buffer.from('x'), [new ACL(Permission.ALL, new Id('auth', ''))], CreateMode.PERSISTENT);
    const [acls] = await zk.getACL(`${base}/acl/mine`);
    assert.equal(acls[0].id.scheme, 'digest');
    assert.match(acls[0].id.id, /^me:/);
    await fails(stranger.getData(`${base}/acl/mine`), 'NO_AUTH');
    await zk.setACL(`${base}/acl/mine`, [new ACL(Permission.READ, new Id('world', 'anyone'))], 0);
    const [data] = await stranger.getData(`${base}/acl/mine`);
    assert.equal(data.toString(), 'x');
}));

test('a thousand requests in one go are answered in order', () => withClients(1, async (zk) => {
    await zk.mkdirp(`${base}/many`);
    const create = (number) => zk.create(`${base}/many/s-`, Buffer.from(`${number}`), CreateMode.PERSISTENT_SEQUENTIAL);
    const created = await Promise.all(Array.from({ length: 1000 }, (_, number) => create(number)));
    const expected = (number) => `${base}/many/s-${String(number).padStart(10, '0')}`;
    created.forEach(([path], number) => assert.equal(path, expected(number)));
}));
