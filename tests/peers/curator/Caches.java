import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.cache.ChildData;
import org.apache.curator.framework.recipes.cache.NodeCache;
import org.apache.curator.framework.recipes.cache.PathChildrenCache;
import org.apache.curator.framework.recipes.cache.TreeCache;

/** The caches that work with standard watches alone. Curator calls them deprecated; they are used. */
@SuppressWarnings("deprecation")
final class Caches {
    private Caches() {}

    static void addTo(Suite suite) {
        suite.add("node-cache-follows", Caches::nodeCacheFollows);
        suite.add("path-children-cache-follows", Caches::pathChildrenCacheFollows);
        suite.add("tree-cache-follows", Caches::treeCacheFollows);
        suite.add("tree-cache-survives-its-session", Caches::treeCacheSurvivesItsSession);
    }

    static String text(ChildData data) {
        return data == null ? null : new String(data.getData(), UTF_8);
    }

    private static void nodeCacheFollows(Suite.Env env) throws Exception {
        CuratorFramework writer = env.client();
        try (NodeCache cache = new NodeCache(env.client(), env.path("node"))) {
            cache.start(true);
            Suite.checkEqual(null, cache.getCurrentData(), "a node that is not there yet");
            writer.create().creatingParentsIfNeeded().forPath(env.path("node"), "0".getBytes(UTF_8));
            Suite.eventually("created", () -> "0".equals(text(cache.getCurrentData())));
            for (int i = 1; i <= 10; i++) {
                String value = Integer.toString(i);
                writer.setData().forPath(env.path("node"), value.getBytes(UTF_8));
                Suite.eventually("set " + i, () -> value.equals(text(cache.getCurrentData())));
            }
            writer.delete().forPath(env.path("node"));
            Suite.eventually("deleted", () -> cache.getCurrentData() == null);
        }
    }

    private static void pathChildrenCacheFollows(Suite.Env env) throws Exception {
        CuratorFramework writer = env.client();
        writer.create().creatingParentsIfNeeded().forPath(env.path("dir/old"), "x".getBytes(UTF_8));
        List<String> events = new CopyOnWriteArrayList<>();
        try (PathChildrenCache cache = new PathChildrenCache(env.client(), env.path("dir"), true)) {
            cache.getListenable().addListener((client, event) -> events.add(
                    event.getType() + (event.getData() == null ? "" : " " + event.getData().getPath())));
            cache.start(PathChildrenCache.StartMode.BUILD_INITIAL_CACHE);
            Suite.checkEqual("x", text(cache.getCurrentData(env.path("dir/old"))), "data at the start");
            writer.create().forPath(env.path("dir/new"), "1".getBytes(UTF_8));
            Suite.eventually("added", () -> events.contains("CHILD_ADDED " + env.path("dir/new")));
            writer.setData().forPath(env.path("dir/new"), "2".getBytes(UTF_8));
            Suite.eventually("updated", () -> "2".equals(text(cache.getCurrentData(env.path("dir/new")))));
            writer.delete().forPath(env.path("dir/new"));
            Suite.eventually("removed", () -> events.contains("CHILD_REMOVED " + env.path("dir/new")));
            for (int i = 0; i < 100; i++) {
                writer.create().forPath(env.path("dir/many-" + i));
            }
            Suite.eventually("all added", () -> cache.getCurrentData().size() == 101);
        }
    }

    private static void treeCacheFollows(Suite.Env env) throws Exception {
        CuratorFramework writer = env.client();
        writer.create().creatingParentsIfNeeded().forPath(env.path("a/b"), "1".getBytes(UTF_8));
        try (TreeCache cache = new TreeCache(env.client(), env.base)) {
            List<String> events = new CopyOnWriteArrayList<>();
            cache.getListenable().addListener((client, event) -> events.add(event.getType().name()));
            cache.start();
            Suite.eventually("initialized", () -> events.contains("INITIALIZED"));
            Suite.checkEqual("1", text(cache.getCurrentData(env.path("a/b"))), "data at the start");
            writer.create().creatingParentsIfNeeded().forPath(env.path("a/c/d/e"), "2".getBytes(UTF_8));
            Suite.eventually("added", () -> "2".equals(text(cache.getCurrentData(env.path("a/c/d/e")))));
            writer.setData().forPath(env.path("a/c/d"), "3".getBytes(UTF_8));
            Suite.eventually("updated", () -> "3".equals(text(cache.getCurrentData(env.path("a/c/d")))));
            writer.delete().deletingChildrenIfNeeded().forPath(env.path("a/c"));
            Suite.eventually("removed", () -> cache.getCurrentData(env.path("a/c")) == null
                    && cache.getCurrentData(env.path("a/c/d/e")) == null);
            Suite.checkEqual("1", text(cache.getCurrentData(env.path("a/b"))), "data of the rest");
        }
    }

    private static void treeCacheSurvivesItsSession(Suite.Env env) throws Exception {
        CuratorFramework writer = env.client();
        CuratorFramework reader = env.client();
        writer.create().creatingParentsIfNeeded().forPath(env.path("a"), "1".getBytes(UTF_8));
        try (TreeCache cache = new TreeCache(reader, env.base)) {
            cache.start();
            Suite.eventually("read", () -> "1".equals(text(cache.getCurrentData(env.path("a")))));
            env.killSession(reader);
            writer.setData().forPath(env.path("a"), "2".getBytes(UTF_8));
            writer.create().forPath(env.path("b"), "3".getBytes(UTF_8));
            Suite.eventually("set", () -> "2".equals(text(cache.getCurrentData(env.path("a")))));
            Suite.eventually("created", () -> "3".equals(text(cache.getCurrentData(env.path("b")))));
        }
    }
}
