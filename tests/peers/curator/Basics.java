import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.data.Stat;

/** The framework itself: nodes, stats, protected creates, transactions, watches, ACLs. */
final class Basics {
    private Basics() {}

    static void addTo(Suite suite) {
        suite.add("basics-create-set-delete", Basics::createSetDelete);
        suite.add("basics-background", Basics::background);
        suite.add("basics-namespace", Basics::namespace);
        suite.add("basics-config", Basics::config);
        suite.add("basics-watch-and-remove", Basics::watchAndRemove);
        suite.add("basics-acl", Basics::acl);
        suite.add("protected-ephemeral-sequential", Basics::protectedEphemeralSequential);
        suite.add("transaction-commits", Basics::transactionCommits);
        suite.add("transaction-rolls-back", Basics::transactionRollsBack);
    }

    private static void createSetDelete(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        Stat created = new Stat();
        // With a Stat asked for, this is create2 on the wire.
        client.create().storingStatIn(created).creatingParentsIfNeeded()
                .forPath(env.path("a/b"), "one".getBytes(UTF_8));
        Stat stat = new Stat();
        byte[] data = client.getData().storingStatIn(stat).forPath(env.path("a/b"));
        Suite.checkEqual("one", new String(data, UTF_8), "data");
        Suite.checkEqual(created, stat, "stat of create and of get");

        Stat set = client.setData().withVersion(0).forPath(env.path("a/b"), "two".getBytes(UTF_8));
        Suite.checkEqual(1, set.getVersion(), "version after a set");
        try {
            client.setData().withVersion(0).forPath(env.path("a/b"), new byte[0]);
            throw new AssertionError("a set with an old version succeeded");
        } catch (KeeperException.BadVersionException expected) {
            // As it should be.
        }
        // createOrSet takes both ways, and reads the version that it sets.
        client.create().orSetData().forPath(env.path("a/b"), "three".getBytes(UTF_8));
        client.create().orSetData().forPath(env.path("a/c"), "four".getBytes(UTF_8));
        List<String> children = client.getChildren().forPath(env.path("a"));
        children.sort(null);
        Suite.checkEqual(Arrays.asList("b", "c"), children, "children");
        client.delete().guaranteed().deletingChildrenIfNeeded().forPath(env.path("a"));
        Suite.checkEqual(null, client.checkExists().forPath(env.path("a")), "stat after delete");
    }

    private static void background(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        int count = 200;
        client.create().creatingParentContainersIfNeeded().forPath(env.path("x"));
        BlockingQueue<String> done = new ArrayBlockingQueue<>(count);
        for (int i = 0; i < count; i++) {
            client.create().inBackground((c, event) -> done.add(event.getResultCode() + " " + event.getPath()))
                    .forPath(env.path("n" + i));
        }
        for (int i = 0; i < count; i++) {
            Suite.checkEqual("0 " + env.path("n" + i), done.poll(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS),
                    "callback " + i + ": they come in the order of the calls");
        }
        CountDownLatch synced = new CountDownLatch(1);
        client.sync().inBackground((c, event) -> synced.countDown()).forPath(env.base);
        Suite.check(synced.await(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "sync answered");
        Suite.checkEqual(count + 1, client.checkExists().forPath(env.base).getNumChildren(), "children");
    }

    private static void namespace(Suite.Env env) throws Exception {
        CuratorFramework plain = env.client();
        CuratorFramework inside = env.client(CuratorFrameworkFactory.builder().namespace(env.base.substring(1)));
        inside.create().creatingParentsIfNeeded().forPath("/x/y", new byte[] {7});
        Suite.checkEqual((byte) 7, plain.getData().forPath(env.path("x/y"))[0], "data seen from outside");
    }

    private static void config(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        // Every Curator client reads and watches it when it starts. Of no length where there is no ensemble.
        Suite.check(client.getConfig().forEnsemble() != null, "the config node has data");
    }

    private static void watchAndRemove(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        CuratorFramework other = env.client();
        BlockingQueue<WatchedEvent> events = new ArrayBlockingQueue<>(10);
        client.checkExists().usingWatcher((org.apache.curator.framework.api.CuratorWatcher) events::add)
                .forPath(env.path("w"));
        other.create().creatingParentsIfNeeded().forPath(env.path("w"));
        WatchedEvent event = events.poll(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
        Suite.check(event != null, "an event");
        Suite.checkEqual("NodeCreated " + env.path("w"), event.getType() + " " + event.getPath(), "event");

        org.apache.zookeeper.Watcher data = events::add;
        client.getData().usingWatcher(data).forPath(env.path("w"));
        // One watcher of a path: checkWatches on the wire. Its only event is the client's own DataWatchRemoved.
        client.watchers().remove(data).forPath(env.path("w"));
        event = events.poll(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
        Suite.check(event != null, "an event");
        Suite.checkEqual("DataWatchRemoved", event.getType().name(), "event");
        other.setData().forPath(env.path("w"), new byte[] {1});
        client.sync().forPath(env.path("w"));
        client.getData().forPath(env.path("w"));
        Suite.check(events.isEmpty(), "no event after the removal");
    }

    private static void acl(Suite.Env env) throws Exception {
        CuratorFramework owner =
                env.client(CuratorFrameworkFactory.builder().authorization("digest", "me:secret".getBytes(UTF_8)));
        CuratorFramework stranger = env.client();
        owner.create().creatingParentsIfNeeded().withACL(ZooDefs.Ids.CREATOR_ALL_ACL)
                .forPath(env.path("mine"), new byte[] {1});
        Suite.checkEqual("digest", owner.getACL().forPath(env.path("mine")).get(0).getId().getScheme(), "scheme");
        owner.setData().forPath(env.path("mine"), new byte[] {2});
        try {
            stranger.getData().forPath(env.path("mine"));
            throw new AssertionError("a stranger read the node");
        } catch (KeeperException.NoAuthException expected) {
            // As it should be.
        }
        // The credentials are sent again with the new session.
        env.killSession(owner);
        Suite.checkEqual((byte) 2, owner.getData().forPath(env.path("mine"))[0], "data");
    }

    private static void protectedEphemeralSequential(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        CuratorFramework other = env.client();
        for (int i = 0; i < 3; i++) {
            String created = client.create().creatingParentsIfNeeded().withProtection()
                    .withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath(env.path("p/member-"));
            Suite.check(created.matches(env.path("p/_c_[0-9a-f-]{36}-member-000000000" + i)), created);
            Stat stat = other.checkExists().forPath(created);
            Suite.checkEqual(client.getZookeeperClient().getZooKeeper().getSessionId(), stat.getEphemeralOwner(),
                    "owner");
        }
        client.close();
        Suite.eventually("ephemerals are gone with their session",
                () -> other.getChildren().forPath(env.path("p")).isEmpty());
    }

    private static void transactionCommits(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        client.create().creatingParentsIfNeeded().forPath(env.path("old"));
        Collection<CuratorTransactionResult> results = client.transaction().forOperations(
                client.transactionOp().create().forPath(env.path("a"), "1".getBytes(UTF_8)),
                client.transactionOp().create().withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath(env.path("a-")),
                client.transactionOp().setData().withVersion(0).forPath(env.path("a"), "2".getBytes(UTF_8)),
                client.transactionOp().check().withVersion(1).forPath(env.path("a")),
                client.transactionOp().delete().forPath(env.path("old")));
        CuratorTransactionResult[] result = results.toArray(new CuratorTransactionResult[0]);
        Suite.checkEqual(5, result.length, "results");
        Suite.checkEqual(env.path("a"), result[0].getResultPath(), "path of the create");
        Suite.check(result[1].getResultPath().matches(env.path("a-\\d{10}")), "path of the sequential create");
        Suite.checkEqual(1, result[2].getResultStat().getVersion(), "version of the set");
        Suite.checkEqual("2", new String(client.getData().forPath(env.path("a")), UTF_8), "data");
        Suite.checkEqual(null, client.checkExists().forPath(env.path("old")), "stat of the deleted node");
    }

    private static void transactionRollsBack(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        client.create().creatingParentsIfNeeded().forPath(env.path("old"));
        try {
            client.transaction().forOperations(
                    client.transactionOp().create().forPath(env.path("a")),
                    client.transactionOp().delete().withVersion(5).forPath(env.path("old")),
                    client.transactionOp().create().forPath(env.path("b")));
            throw new AssertionError("the transaction succeeded");
        } catch (KeeperException.BadVersionException e) {
            int[] codes = e.getResults().stream()
                    .mapToInt(result -> ((org.apache.zookeeper.OpResult.ErrorResult) result).getErr()).toArray();
            Suite.checkEqual("[0, -103, -2]", Arrays.toString(codes), "error codes");
        }
        Suite.checkEqual(null, client.checkExists().forPath(env.path("a")), "stat of a");
        Suite.check(client.checkExists().forPath(env.path("old")) != null, "old is still there");
    }
}
