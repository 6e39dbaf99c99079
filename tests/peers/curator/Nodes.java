import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.nodes.PersistentEphemeralNode;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.nodes.PersistentTtlNode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.data.Stat;

@SuppressWarnings("deprecation")
final class Nodes {
    private Nodes() {}

    static void addTo(Suite suite) {
        suite.add("persistent-node-comes-back", Nodes::persistentNodeComesBack);
        suite.add("persistent-ephemeral-node-comes-back", Nodes::persistentEphemeralNodeComesBack);
    }

    /** Those that need znodes with a time to live. */
    static void addThoseWithTtlTo(Suite suite) {
        suite.add("persistent-ttl-node-outlives-its-time", Nodes::persistentTtlNodeOutlivesItsTime);
    }

    private static long owner(CuratorFramework observer, String path) throws Exception {
        Stat stat = observer.checkExists().forPath(path);
        return stat == null ? 0 : stat.getEphemeralOwner();
    }

    private static long sessionOf(CuratorFramework client) throws Exception {
        return client.getZookeeperClient().getZooKeeper().getSessionId();
    }

    private static void persistentNodeComesBack(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        CuratorFramework observer = env.client();
        String path = env.path("node");
        try (PersistentNode node =
                new PersistentNode(client, CreateMode.EPHEMERAL, false, path, "hello".getBytes(UTF_8))) {
            node.start();
            Suite.check(node.waitForInitialCreate(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "created");
            long session = sessionOf(client);
            Suite.checkEqual(session, owner(observer, path), "owner");

            observer.delete().forPath(path);
            Suite.eventually("back after a delete", () -> owner(observer, path) == session);

            env.killSession(client);
            Suite.eventually("back in the new session", () -> owner(observer, path) == sessionOf(client));
            Suite.check(sessionOf(client) != session, "the session is a new one");

            node.setData("again".getBytes(UTF_8));
            Suite.eventually("data set", () -> "again".equals(new String(observer.getData().forPath(path), UTF_8)));
        }
        Suite.eventually("gone after close", () -> observer.checkExists().forPath(path) == null);
    }

    private static void persistentEphemeralNodeComesBack(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        CuratorFramework observer = env.client();
        // Protected and sequential: after the session's death, the node gets a new name.
        try (PersistentEphemeralNode node = new PersistentEphemeralNode(client,
                PersistentEphemeralNode.Mode.PROTECTED_EPHEMERAL_SEQUENTIAL, env.path("member-"), new byte[] {1})) {
            node.start();
            Suite.check(node.waitForInitialCreate(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "created");
            Suite.checkEqual(sessionOf(client), owner(observer, node.getActualPath()), "owner");
            env.killSession(client);
            Suite.eventually("back in the new session",
                    () -> node.getActualPath() != null && owner(observer, node.getActualPath()) == sessionOf(client));
            Suite.eventually("and only there", () -> observer.getChildren().forPath(env.base).size() == 1);
        }
    }

    private static void persistentTtlNodeOutlivesItsTime(Suite.Env env) throws Exception {
        CuratorFramework observer = env.client();
        String path = env.path("node");
        String touched = path + "/" + PersistentTtlNode.DEFAULT_CHILD_NODE_NAME;
        try (PersistentTtlNode node = new PersistentTtlNode(env.client(), path, 2_000, "hello".getBytes(UTF_8))) {
            node.start();
            Suite.check(node.waitForInitialCreate(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "created");
            // Each touch begins the time anew: after these it is over for a node that was made once.
            Suite.eventually("touched", () -> {
                Stat stat = observer.checkExists().forPath(touched);
                return stat != null && stat.getVersion() >= 3;
            });
            Suite.checkEqual("hello", new String(observer.getData().forPath(path), UTF_8), "data");
        }
        Suite.eventually("gone when nobody touches it", () -> observer.checkExists().forPath(path) == null);
    }
}
