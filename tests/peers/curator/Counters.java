import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.atomic.AtomicValue;
import org.apache.curator.framework.recipes.atomic.CachedAtomicInteger;
import org.apache.curator.framework.recipes.atomic.CachedAtomicLong;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicInteger;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicValue;
import org.apache.curator.framework.recipes.atomic.PromotedToLock;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.shared.SharedCountListener;
import org.apache.curator.framework.recipes.shared.SharedCountReader;
import org.apache.curator.framework.recipes.shared.SharedValue;
import org.apache.curator.framework.recipes.shared.VersionedValue;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryNTimes;
import java.util.concurrent.TimeUnit;

final class Counters {
    private Counters() {}

    static void addTo(Suite suite) {
        suite.add("shared-count-is-seen", Counters::sharedCountIsSeen);
        suite.add("shared-value-is-seen", Counters::sharedValueIsSeen);
        suite.add("atomic-long-counts", Counters::atomicLongCounts);
        suite.add("atomic-integer-and-value-compare-and-set", Counters::atomicIntegerAndValueCompareAndSet);
        suite.add("cached-atomics-give-each-number-once", Counters::cachedAtomicsGiveEachNumberOnce);
    }

    private static void sharedCountIsSeen(Suite.Env env) throws Exception {
        SharedCount mine = new SharedCount(env.client(), env.path("count"), 10);
        SharedCount theirs = new SharedCount(env.client(), env.path("count"), 99);
        AtomicInteger heard = new AtomicInteger();
        theirs.addListener(new SharedCountListener() {
            @Override
            public void countHasChanged(SharedCountReader count, int newCount) {
                heard.set(newCount);
            }

            @Override
            public void stateChanged(CuratorFramework client, ConnectionState state) {}
        });
        mine.start();
        theirs.start();
        Suite.checkEqual(10, theirs.getCount(), "the first seed stays");
        mine.setCount(11);
        Suite.eventually("heard", () -> heard.get() == 11);
        VersionedValue<Integer> old = theirs.getVersionedValue();
        Suite.eventually("seen", () -> theirs.getCount() == 11);
        Suite.check(mine.trySetCount(mine.getVersionedValue(), 12), "set with the current version");
        Suite.check(!theirs.trySetCount(old, 13), "no set with an old version");
        Suite.eventually("the refused one has read the new value", () -> theirs.getCount() == 12);
        mine.close();
        theirs.close();
    }

    private static void atomicLongCounts(Suite.Env env) throws Exception {
        int threads = 6;
        int rounds = 20;
        CuratorFramework observer = env.client();
        AtomicInteger optimistic = new AtomicInteger();
        env.inParallel(threads, i -> {
            // Few optimistic tries, so that the promotion to a lock is taken as well.
            PromotedToLock promotion = PromotedToLock.builder()
                    .lockPath(env.path("lock"))
                    .timeout(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS)
                    .retryPolicy(new RetryNTimes(10, 10))
                    .build();
            DistributedAtomicLong value = new DistributedAtomicLong(
                    env.client(), env.path("value"), new RetryNTimes(2, 1), promotion);
            for (int round = 0; round < rounds; round++) {
                AtomicValue<Long> result = value.increment();
                // Also the promoted set may lose against optimistic ones: then it is tried again.
                while (!result.succeeded()) {
                    result = value.increment();
                }
                optimistic.addAndGet(result.getStats().getPromotedLockTries() == 0 ? 1 : 0);
                Suite.checkEqual(result.preValue() + 1, result.postValue(), "value after an increment");
            }
        });
        DistributedAtomicLong value =
                new DistributedAtomicLong(observer, env.path("value"), new RetryNTimes(2, 1));
        Suite.checkEqual((long) threads * rounds, value.get().postValue(), "increments");
        Suite.check(optimistic.get() > 0, "some increments need no lock");
    }

    private static void sharedValueIsSeen(Suite.Env env) throws Exception {
        try (SharedValue mine = new SharedValue(env.client(), env.path("value"), "seed".getBytes(UTF_8));
                SharedValue theirs = new SharedValue(env.client(), env.path("value"), "other".getBytes(UTF_8))) {
            mine.start();
            theirs.start();
            Suite.checkEqual("seed", new String(theirs.getValue(), UTF_8), "the first seed stays");
            VersionedValue<byte[]> old = theirs.getVersionedValue();
            mine.setValue("new".getBytes(UTF_8));
            Suite.eventually("seen", () -> "new".equals(new String(theirs.getValue(), UTF_8)));
            Suite.check(!theirs.trySetValue(old, "late".getBytes(UTF_8)), "no set with an old version");
            Suite.check(mine.trySetValue(mine.getVersionedValue(), "last".getBytes(UTF_8)), "set with the current one");
            Suite.eventually("seen", () -> "last".equals(new String(theirs.getValue(), UTF_8)));
        }
    }

    private static void atomicIntegerAndValueCompareAndSet(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        DistributedAtomicInteger number =
                new DistributedAtomicInteger(client, env.path("number"), new RetryNTimes(3, 10));
        Suite.check(number.initialize(5), "it is not there");
        Suite.check(!number.initialize(6), "it is there");
        Suite.checkEqual(8, number.add(3).postValue(), "sum");
        Suite.checkEqual(7, number.subtract(1).postValue(), "difference");
        Suite.check(!number.compareAndSet(8, 9).succeeded(), "it is 7");
        Suite.check(number.compareAndSet(7, 9).succeeded(), "it is 7");
        number.forceSet(1);
        Suite.checkEqual(1, number.get().postValue(), "set");
        Suite.checkEqual(0, number.decrement().postValue(), "decremented");
        DistributedAtomicValue value = new DistributedAtomicValue(client, env.path("value"), new RetryNTimes(3, 10));
        Suite.check(value.trySet("a".getBytes(UTF_8)).succeeded(), "set");
        Suite.check(!value.compareAndSet("b".getBytes(UTF_8), "c".getBytes(UTF_8)).succeeded(), "it is a");
        AtomicValue<byte[]> set = value.compareAndSet("a".getBytes(UTF_8), "c".getBytes(UTF_8));
        Suite.check(set.succeeded(), "it is a");
        Suite.checkEqual("c", new String(value.get().postValue(), UTF_8), "value");
    }

    private static void cachedAtomicsGiveEachNumberOnce(Suite.Env env) throws Exception {
        int threads = 4;
        int rounds = 50;
        Set<Object> longs = ConcurrentHashMap.newKeySet();
        Set<Object> integers = ConcurrentHashMap.newKeySet();
        env.inParallel(threads, i -> {
            CuratorFramework client = env.client();
            CachedAtomicLong nextLong = new CachedAtomicLong(
                    new DistributedAtomicLong(client, env.path("long"), new RetryNTimes(100, 5)), 20);
            CachedAtomicInteger nextInteger = new CachedAtomicInteger(
                    new DistributedAtomicInteger(client, env.path("integer"), new RetryNTimes(100, 5)), 20);
            for (int round = 0; round < rounds; round++) {
                Suite.check(longs.add(given(nextLong::next)), "a number twice");
                Suite.check(integers.add(given(nextInteger::next)), "a number twice");
            }
        });
        Suite.checkEqual(threads * rounds, longs.size(), "numbers");
        Suite.checkEqual(threads * rounds, integers.size(), "numbers");
    }

    /** The next number; a try that lost against others is made again. */
    private static <T> T given(java.util.concurrent.Callable<AtomicValue<T>> next) throws Exception {
        AtomicValue<T> given = next.call();
        while (!given.succeeded()) {
            given = next.call();
        }
        return given.postValue();
    }
}
