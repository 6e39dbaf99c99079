import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.locks.InterProcessLock;
import org.apache.curator.framework.recipes.locks.InterProcessMultiLock;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphore;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreMutex;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.locks.Revoker;
import org.apache.curator.framework.recipes.shared.SharedCount;

final class Locks {
    private static final int CLIENTS = 4;
    private static final int THREADS = 8;
    private static final int ROUNDS = 15;

    private Locks() {}

    static void addTo(Suite suite) {
        suite.add("mutex-excludes", Locks::mutexExcludes);
        suite.add("mutex-is-reentrant-and-times-out", Locks::mutexIsReentrantAndTimesOut);
        suite.add("mutex-passes-on-when-its-session-dies", Locks::mutexPassesOnWhenItsSessionDies);
        suite.add("read-write-lock-excludes", Locks::readWriteLockExcludes);
        suite.add("read-write-lock-shares-reads", Locks::readWriteLockSharesReads);
        suite.add("semaphore-limits", Locks::semaphoreLimits);
        suite.add("semaphore-follows-a-shared-count", Locks::semaphoreFollowsASharedCount);
        suite.add("old-semaphore-limits", Locks::oldSemaphoreLimits);
        suite.add("semaphore-mutex-is-not-reentrant", Locks::semaphoreMutexIsNotReentrant);
        suite.add("multi-lock-takes-all-or-none", Locks::multiLockTakesAllOrNone);
        suite.add("mutex-is-asked-for", Locks::mutexIsAskedFor);
    }

    /**
     * What a lock protects: a number on the server, read and then set without a version, so that
     * two holders at a time lose an increment; and a count of holders, which also tells when.
     */
    private static final class Protected {
        private final String path;
        private final AtomicInteger holders = new AtomicInteger();

        Protected(Suite.Env env, CuratorFramework client) throws Exception {
            path = env.path("counter");
            client.create().creatingParentsIfNeeded().forPath(path, "0".getBytes(UTF_8));
        }

        void increment(CuratorFramework client) throws Exception {
            Suite.checkEqual(1, holders.incrementAndGet(), "holders");
            int value = read(client);
            client.setData().forPath(path, Integer.toString(value + 1).getBytes(UTF_8));
            Suite.checkEqual(0, holders.decrementAndGet(), "holders");
        }

        int read(CuratorFramework client) throws Exception {
            return Integer.parseInt(new String(client.getData().forPath(path), UTF_8));
        }
    }

    private static void acquire(InterProcessLock lock) throws Exception {
        Suite.check(lock.acquire(2 * Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "lock acquired");
    }

    private static CuratorFramework[] clients(Suite.Env env) throws Exception {
        CuratorFramework[] clients = new CuratorFramework[CLIENTS];
        for (int i = 0; i < CLIENTS; i++) {
            clients[i] = env.client();
        }
        return clients;
    }

    private static void mutexExcludes(Suite.Env env) throws Exception {
        CuratorFramework[] clients = clients(env);
        Protected shared = new Protected(env, clients[0]);
        env.inParallel(THREADS, thread -> {
            CuratorFramework client = clients[thread % CLIENTS];
            InterProcessMutex mutex = new InterProcessMutex(client, env.path("lock"));
            for (int round = 0; round < ROUNDS; round++) {
                acquire(mutex);
                shared.increment(client);
                mutex.release();
            }
        });
        Suite.checkEqual(THREADS * ROUNDS, shared.read(clients[0]), "increments");
    }

    private static void mutexIsReentrantAndTimesOut(Suite.Env env) throws Exception {
        InterProcessMutex first = new InterProcessMutex(env.client(), env.path("lock"));
        InterProcessMutex second = new InterProcessMutex(env.client(), env.path("lock"));
        acquire(first);
        acquire(first);
        Suite.check(!second.acquire(200, TimeUnit.MILLISECONDS), "the second waits in vain");
        first.release();
        Suite.check(!second.acquire(200, TimeUnit.MILLISECONDS), "one release of two");
        Suite.checkEqual(1, first.getParticipantNodes().size(), "nodes: one that gave up has left");
        first.release();
        acquire(second);
        second.release();
    }

    private static void mutexPassesOnWhenItsSessionDies(Suite.Env env) throws Exception {
        CuratorFramework holder = env.client();
        CuratorFramework heir = env.client();
        InterProcessMutex held = new InterProcessMutex(holder, env.path("lock"));
        acquire(held);
        AtomicInteger acquired = new AtomicInteger();
        var waiting = env.start(1, i -> {
            acquire(new InterProcessMutex(heir, env.path("lock")));
            acquired.incrementAndGet();
        });
        Suite.eventually("the heir waits", () -> held.getParticipantNodes().size() == 2);
        Suite.checkEqual(0, acquired.get(), "acquired before the session died");
        env.killSession(holder);
        env.await(waiting);
    }

    private static void readWriteLockExcludes(Suite.Env env) throws Exception {
        CuratorFramework[] clients = clients(env);
        Protected shared = new Protected(env, clients[0]);
        AtomicInteger readers = new AtomicInteger();
        env.inParallel(THREADS, thread -> {
            CuratorFramework client = clients[thread % CLIENTS];
            InterProcessReadWriteLock lock = new InterProcessReadWriteLock(client, env.path("lock"));
            for (int round = 0; round < ROUNDS; round++) {
                if ((thread + round) % 3 == 0) {
                    acquire(lock.writeLock());
                    Suite.checkEqual(0, readers.get(), "readers beside a writer");
                    shared.increment(client);
                    Suite.checkEqual(0, readers.get(), "readers beside a writer");
                    lock.writeLock().release();
                } else {
                    acquire(lock.readLock());
                    readers.incrementAndGet();
                    int before = shared.read(client);
                    Suite.checkEqual(before, shared.read(client), "value under a read lock");
                    readers.decrementAndGet();
                    lock.readLock().release();
                }
            }
        });
        Suite.checkEqual(THREADS * ROUNDS / 3, shared.read(clients[0]), "increments");
    }

    private static void readWriteLockSharesReads(Suite.Env env) throws Exception {
        CuratorFramework[] clients = clients(env);
        CyclicBarrier allInside = new CyclicBarrier(CLIENTS);
        env.inParallel(CLIENTS, i -> {
            InterProcessReadWriteLock lock = new InterProcessReadWriteLock(clients[i], env.path("lock"));
            acquire(lock.readLock());
            // Nobody gets past this unless all hold the lock at one time.
            allInside.await(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
            Suite.check(!lock.writeLock().acquire(100, TimeUnit.MILLISECONDS), "no writer beside readers");
            lock.readLock().release();
        });
        InterProcessReadWriteLock lock = new InterProcessReadWriteLock(clients[0], env.path("lock"));
        acquire(lock.writeLock());
        // A writer may take the read lock too, and keep it: the way to downgrade.
        acquire(lock.readLock());
        lock.writeLock().release();
        lock.readLock().release();
    }

    private static void semaphoreLimits(Suite.Env env) throws Exception {
        int leases = 3;
        CuratorFramework[] clients = clients(env);
        AtomicInteger holders = new AtomicInteger();
        env.inParallel(THREADS, thread -> {
            InterProcessSemaphoreV2 semaphore =
                    new InterProcessSemaphoreV2(clients[thread % CLIENTS], env.path("semaphore"), leases);
            for (int round = 0; round < 5; round++) {
                Lease lease = semaphore.acquire(2 * Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
                Suite.check(lease != null, "lease acquired");
                int now = holders.incrementAndGet();
                Suite.check(now <= leases, now + " holders of " + leases + " leases");
                clients[thread % CLIENTS].checkExists().forPath(env.base);
                holders.decrementAndGet();
                semaphore.returnLease(lease);
            }
        });
        InterProcessSemaphoreV2 first = new InterProcessSemaphoreV2(clients[0], env.path("semaphore"), leases);
        InterProcessSemaphoreV2 second = new InterProcessSemaphoreV2(clients[1], env.path("semaphore"), leases);
        var all = first.acquire(leases, Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
        Suite.check(all != null, "all leases are held at one time");
        Suite.checkEqual(null, second.acquire(200, TimeUnit.MILLISECONDS), "one lease more");
        first.returnAll(all);
    }

    private static void semaphoreFollowsASharedCount(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        try (SharedCount count = new SharedCount(env.client(), env.path("count"), 1);
                SharedCount seen = new SharedCount(client, env.path("count"), 1)) {
            count.start();
            seen.start();
            InterProcessSemaphoreV2 semaphore = new InterProcessSemaphoreV2(client, env.path("semaphore"), seen);
            Lease first = semaphore.acquire(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
            Suite.check(first != null, "lease acquired");
            Suite.checkEqual(null, semaphore.acquire(200, TimeUnit.MILLISECONDS), "one lease more");
            var waiting = env.start(1, i -> {
                Lease second = semaphore.acquire(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
                Suite.check(second != null, "a lease of the larger count");
                semaphore.returnLease(second);
            });
            count.setCount(2);
            env.await(waiting);
            semaphore.returnLease(first);
        }
    }

    @SuppressWarnings("deprecation")
    private static void oldSemaphoreLimits(Suite.Env env) throws Exception {
        InterProcessSemaphore first = new InterProcessSemaphore(env.client(), env.path("semaphore"), 2);
        InterProcessSemaphore second = new InterProcessSemaphore(env.client(), env.path("semaphore"), 2);
        var both = first.acquire(2, Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
        Suite.check(both != null, "both leases are held");
        Suite.checkEqual(null, second.acquire(200, TimeUnit.MILLISECONDS), "one lease more");
        first.returnAll(both);
        Lease lease = second.acquire(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
        Suite.check(lease != null, "what was returned can be had");
        second.returnLease(lease);
    }

    private static void semaphoreMutexIsNotReentrant(Suite.Env env) throws Exception {
        CuratorFramework[] clients = clients(env);
        Protected shared = new Protected(env, clients[0]);
        InterProcessSemaphoreMutex held = new InterProcessSemaphoreMutex(clients[0], env.path("lock"));
        acquire(held);
        Suite.check(!held.acquire(200, TimeUnit.MILLISECONDS), "not again, by its holder either");
        held.release();
        env.inParallel(CLIENTS, i -> {
            InterProcessSemaphoreMutex mutex = new InterProcessSemaphoreMutex(clients[i], env.path("lock"));
            for (int round = 0; round < 5; round++) {
                acquire(mutex);
                shared.increment(clients[i]);
                mutex.release();
            }
        });
        Suite.checkEqual(CLIENTS * 5, shared.read(clients[0]), "increments");
    }

    private static void multiLockTakesAllOrNone(Suite.Env env) throws Exception {
        CuratorFramework other = env.client();
        InterProcessMultiLock all =
                new InterProcessMultiLock(env.client(), List.of(env.path("a"), env.path("b")));
        InterProcessMutex first = new InterProcessMutex(other, env.path("a"));
        InterProcessMutex second = new InterProcessMutex(other, env.path("b"));
        acquire(second);
        Suite.check(!all.acquire(200, TimeUnit.MILLISECONDS), "one of them is held");
        Suite.check(!all.isAcquiredInThisProcess(), "not in part");
        acquire(first);
        first.release();
        second.release();
        acquire(all);
        Suite.check(!first.acquire(200, TimeUnit.MILLISECONDS), "the first is held");
        Suite.check(!second.acquire(200, TimeUnit.MILLISECONDS), "the second is held");
        all.release();
        acquire(first);
        acquire(second);
        second.release();
        first.release();
    }

    private static void mutexIsAskedFor(Suite.Env env) throws Exception {
        CuratorFramework heir = env.client();
        InterProcessMutex held = new InterProcessMutex(env.client(), env.path("lock"));
        CountDownLatch asked = new CountDownLatch(1);
        held.makeRevocable(lock -> asked.countDown());
        acquire(held);
        String node = held.getParticipantNodes().iterator().next();
        Suite.checkEqual(1L, asked.getCount(), "nobody has asked");
        Revoker.attemptRevoke(heir, node);
        Suite.check(asked.await(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "its holder hears of it");
        held.release();
        acquire(new InterProcessMutex(heir, env.path("lock")));
    }
}
