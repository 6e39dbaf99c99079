import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheBridge;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.watch.PersistentWatcher;
import org.apache.zookeeper.Watcher.Event.EventType;

/** What Curator builds on addWatch; with clients of 3.6 and newer it has no other way. */
final class PersistentWatches {
    private PersistentWatches() {}

    static void addTo(Suite suite) {
        suite.add("persistent-watcher-stays", PersistentWatches::persistentWatcherStays);
        suite.add("curator-cache-follows", PersistentWatches::curatorCacheFollows);
        suite.add("curator-cache-survives-its-session", PersistentWatches::curatorCacheSurvivesItsSession);
        suite.add("curator-cache-bridge-follows", PersistentWatches::curatorCacheBridgeFollows);
        suite.add("group-members-see-each-other", PersistentWatches::groupMembersSeeEachOther);
    }

    private static void persistentWatcherStays(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        CuratorFramework writer = env.client();
        writer.create().creatingParentsIfNeeded().forPath(env.path("a"));
        List<String> events = new CopyOnWriteArrayList<>();
        try (PersistentWatcher watcher = new PersistentWatcher(client, env.base, true)) {
            watcher.getListenable().addListener(event -> {
                if (event.getType() != EventType.None) {
                    events.add(event.getType() + " " + event.getPath().substring(env.base.length()));
                }
            });
            CountDownLatch set = new CountDownLatch(1);
            watcher.getResetListenable().addListener(set::countDown);
            watcher.start();
            Suite.check(set.await(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "watch set");
            writer.setData().forPath(env.path("a"), new byte[] {1});
            writer.setData().forPath(env.path("a"), new byte[] {2});
            writer.create().forPath(env.path("a/b"));
            writer.delete().forPath(env.path("a/b"));
            List<String> want = List.of(
                    "NodeDataChanged /a", "NodeDataChanged /a", "NodeCreated /a/b", "NodeDeleted /a/b");
            Suite.eventually("four events", () -> events.size() >= want.size());
            Suite.checkEqual(want, events, "events");
        }
    }

    private static void curatorCacheFollows(Suite.Env env) throws Exception {
        CuratorFramework writer = env.client();
        writer.create().creatingParentsIfNeeded().forPath(env.path("a/b"), "1".getBytes(UTF_8));
        CountDownLatch initialized = new CountDownLatch(1);
        try (CuratorCache cache = CuratorCache.build(env.client(), env.base)) {
            cache.listenable().addListener(
                    CuratorCacheListener.builder().forInitialized(initialized::countDown).build());
            cache.start();
            Suite.check(initialized.await(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "initialized");
            Suite.checkEqual("1", Caches.text(cache.get(env.path("a/b")).orElse(null)), "data at the start");
            writer.create().creatingParentsIfNeeded().forPath(env.path("a/c/d"), "2".getBytes(UTF_8));
            Suite.eventually("added", () -> "2".equals(Caches.text(cache.get(env.path("a/c/d")).orElse(null))));
            for (int i = 0; i < 20; i++) {
                String value = "v" + i;
                writer.setData().forPath(env.path("a/b"), value.getBytes(UTF_8));
                Suite.eventually("set " + i, () -> value.equals(Caches.text(cache.get(env.path("a/b")).orElse(null))));
            }
            writer.delete().deletingChildrenIfNeeded().forPath(env.path("a/c"));
            Suite.eventually("removed", () -> cache.get(env.path("a/c")).isEmpty()
                    && cache.get(env.path("a/c/d")).isEmpty());
        }
    }

    private static void curatorCacheSurvivesItsSession(Suite.Env env) throws Exception {
        CuratorFramework writer = env.client();
        CuratorFramework reader = env.client();
        writer.create().creatingParentsIfNeeded().forPath(env.path("a"), "1".getBytes(UTF_8));
        try (CuratorCache cache = CuratorCache.build(reader, env.base)) {
            cache.start();
            Suite.eventually("read", () -> "1".equals(Caches.text(cache.get(env.path("a")).orElse(null))));
            env.killSession(reader);
            writer.setData().forPath(env.path("a"), "2".getBytes(UTF_8));
            writer.create().forPath(env.path("b"), "3".getBytes(UTF_8));
            Suite.eventually("set", () -> "2".equals(Caches.text(cache.get(env.path("a")).orElse(null))));
            Suite.eventually("created", () -> "3".equals(Caches.text(cache.get(env.path("b")).orElse(null))));
        }
    }

    private static void groupMembersSeeEachOther(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        GroupMember first = new GroupMember(env.client(), env.path("group"), "first", new byte[] {1});
        GroupMember second = new GroupMember(client, env.path("group"), "second", new byte[] {2});
        try (first) {
            first.start();
            second.start();
            Suite.eventually("both", () -> first.getCurrentMembers().keySet().equals(java.util.Set.of("first", "second"))
                    && second.getCurrentMembers().size() == 2);
            env.killSession(client);
            Suite.eventually("both again", () -> first.getCurrentMembers().size() == 2);
            second.close();
            Suite.eventually("one", () -> first.getCurrentMembers().size() == 1);
        }
    }

    private static void curatorCacheBridgeFollows(Suite.Env env) throws Exception {
        CuratorFramework writer = env.client();
        writer.create().creatingParentsIfNeeded().forPath(env.path("a"), "1".getBytes(UTF_8));
        try (CuratorCacheBridge cache = CuratorCache.bridgeBuilder(env.client(), env.base).build()) {
            Suite.check(cache.isCuratorCache(), "not the old kind");
            cache.start();
            Suite.eventually("loaded", () -> "1".equals(Caches.text(cache.get(env.path("a")).orElse(null))));
            writer.create().forPath(env.path("b"), "2".getBytes(UTF_8));
            Suite.eventually("added", () -> cache.size() == 3);
            writer.delete().forPath(env.path("a"));
            Suite.eventually("removed", () -> cache.get(env.path("a")).isEmpty());
        }
    }
}
