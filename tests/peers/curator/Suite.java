import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooKeeper;

/**
 * Curator's recipes against one running server.
 *
 * <p>{@code Suite HOST:PORT [--has add-watch] [--has ttl] [TEST...]} runs the tests, or those whose name
 * contains one of the given words, one after the other; prints a line for each, and the stack of
 * each failure; exits with 1 if any failed.
 */
final class Suite {
    /** No test needs more than a few seconds; the slowest wait for a session to be replaced. */
    private static final int TEST_SECONDS_MAX = 60;

    /** The bound of each single wait inside a test. */
    static final int WAIT_SECONDS_MAX = 20;

    interface Test {
        void run(Env env) throws Exception;
    }

    private final Map<String, Test> tests = new LinkedHashMap<>();

    void add(String name, Test test) {
        tests.put(name, test);
    }

    public static void main(String[] args) throws Exception {
        String servers = args[0];
        Set<String> has = new HashSet<>();
        List<String> words = new ArrayList<>();
        for (int i = 1; i < args.length; i++) {
            if (args[i].equals("--has")) {
                String need = args[++i];
                if (!Set.of("add-watch", "ttl").contains(need)) {
                    throw new IllegalArgumentException("--has " + need + ": add-watch and ttl are known");
                }
                has.add(need);
            } else {
                words.add(args[i]);
            }
        }

        Suite suite = new Suite();
        Basics.addTo(suite);
        Locks.addTo(suite);
        Leaders.addTo(suite);
        Barriers.addTo(suite);
        Caches.addTo(suite);
        Nodes.addTo(suite);
        Counters.addTo(suite);
        Queues.addTo(suite);
        if (has.contains("add-watch")) {
            PersistentWatches.addTo(suite);
        }
        if (has.contains("ttl")) {
            Nodes.addThoseWithTtlTo(suite);
        }
        // Recipes leave threads of their own behind, which are not all daemons.
        System.exit(suite.run(servers, words) ? 0 : 1);
    }

    private boolean run(String servers, List<String> words) throws Exception {
        List<String> failed = new ArrayList<>();
        int ran = 0;
        for (Map.Entry<String, Test> entry : tests.entrySet()) {
            String name = entry.getKey();
            if (!words.isEmpty() && words.stream().noneMatch(name::contains)) {
                continue;
            }
            ran++;
            long startedNanos = System.nanoTime();
            Throwable failure = runOne(servers, name, entry.getValue());
            long ms = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - startedNanos);
            System.out.printf("%s %s (%d ms)%n", failure == null ? "ok  " : "FAIL", name, ms);
            if (failure != null) {
                failure.printStackTrace(System.out);
                failed.add(name);
            }
        }
        System.out.printf("curator: %d tests, %d failed%s%n", ran, failed.size(),
                failed.isEmpty() ? "" : ": " + String.join(", ", failed));
        return ran > 0 && failed.isEmpty();
    }

    private static Throwable runOne(String servers, String name, Test test) throws Exception {
        try (Env env = new Env(servers, "/curator-" + name + "-" + Long.toHexString(System.nanoTime()))) {
            ExecutorService runner = Executors.newSingleThreadExecutor(task -> daemon(task, name));
            Future<?> result = runner.submit(() -> {
                test.run(env);
                return null;
            });
            try {
                result.get(TEST_SECONDS_MAX, TimeUnit.SECONDS);
                return null;
            } catch (TimeoutException e) {
                return stackOf(name, "still running after " + TEST_SECONDS_MAX + " s");
            } catch (java.util.concurrent.ExecutionException e) {
                return e.getCause();
            } finally {
                runner.shutdownNow();
            }
        }
    }

    private static Throwable stackOf(String threadName, String message) {
        Throwable failure = new AssertionError(message);
        for (Map.Entry<Thread, StackTraceElement[]> entry : Thread.getAllStackTraces().entrySet()) {
            if (entry.getKey().getName().equals(threadName)) {
                failure.setStackTrace(entry.getValue());
            }
        }
        return failure;
    }

    static Thread daemon(Runnable task, String name) {
        Thread thread = new Thread(task, name);
        thread.setDaemon(true);
        return thread;
    }

    // -- what tests use ---------------------------------------------------------------------------

    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    static void checkEqual(Object want, Object got, String what) {
        check(want == null ? got == null : want.equals(got), what + ": want " + want + ", got " + got);
    }

    /** Waits until {@code condition} holds; fails with {@code what} after WAIT_SECONDS_MAX. */
    static void eventually(String what, Callable<Boolean> condition) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS_MAX);
        while (!condition.call()) {
            check(System.nanoTime() < deadline, "never happened: " + what);
            Thread.sleep(10);
        }
    }

    /** A server, a path of the test's own on it, and what the test opens there. */
    static final class Env implements AutoCloseable {
        static final int SESSION_MS = 10_000;

        final String servers;
        final String base;
        private final List<CuratorFramework> clients = new CopyOnWriteArrayList<>();
        private final ExecutorService threads =
                Executors.newCachedThreadPool(task -> daemon(task, "test helper"));

        Env(String servers, String base) {
            this.servers = servers;
            this.base = base;
        }

        /** A connected client with a session of its own, closed at the end of the test. */
        CuratorFramework client() throws Exception {
            return client(CuratorFrameworkFactory.builder());
        }

        CuratorFramework client(CuratorFrameworkFactory.Builder builder) throws Exception {
            CuratorFramework client = builder
                    .connectString(servers)
                    .sessionTimeoutMs(SESSION_MS)
                    .connectionTimeoutMs(5_000)
                    .retryPolicy(new ExponentialBackoffRetry(100, 5))
                    .build();
            clients.add(client);
            client.start();
            check(client.blockUntilConnected(WAIT_SECONDS_MAX, TimeUnit.SECONDS), "connected to " + servers);
            return client;
        }

        String path(String name) {
            return base + "/" + name;
        }

        /** Runs {@code task} {@code count} times at the same time; fails if one of them does. */
        void inParallel(int count, Task task) throws Exception {
            await(start(count, task));
        }

        interface Task {
            void run(int index) throws Exception;
        }

        List<Future<?>> start(int count, Task task) {
            CountDownLatch ready = new CountDownLatch(count);
            List<Future<?>> results = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                int index = i;
                results.add(threads.submit(() -> {
                    ready.countDown();
                    ready.await();
                    task.run(index);
                    return null;
                }));
            }
            return results;
        }

        void await(List<Future<?>> results) throws Exception {
            for (Future<?> result : results) {
                result.get(2 * WAIT_SECONDS_MAX, TimeUnit.SECONDS);
            }
        }

        /**
         * Ends the session of {@code client} on the server: a second handle takes the session over,
         * which drops the first one's connection, and closes it. Returns when {@code client} has a
         * new session.
         */
        void killSession(CuratorFramework client) throws Exception {
            ZooKeeper victim = client.getZookeeperClient().getZooKeeper();
            long sessionId = victim.getSessionId();
            CountDownLatch attached = new CountDownLatch(1);
            ZooKeeper killer = new ZooKeeper(servers, SESSION_MS, event -> {
                if (event.getState() == KeeperState.SyncConnected) {
                    attached.countDown();
                }
            }, sessionId, victim.getSessionPasswd());
            check(attached.await(WAIT_SECONDS_MAX, TimeUnit.SECONDS), "second handle attached to the session");
            // The victim waits up to a second before it connects again, and so loses the race.
            killer.close();
            eventually("a new session after the loss of " + Long.toHexString(sessionId), () -> {
                ZooKeeper now = client.getZookeeperClient().getZooKeeper();
                return now.getSessionId() != sessionId && now.getState() == ZooKeeper.States.CONNECTED;
            });
        }

        @Override
        public void close() {
            threads.shutdownNow();
            clients.forEach(CuratorFramework::close);
        }
    }
}
