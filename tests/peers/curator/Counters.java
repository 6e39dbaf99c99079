import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.atomic.AtomicValue;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.atomic.PromotedToLock;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.shared.SharedCountListener;
import org.apache.curator.framework.recipes.shared.SharedCountReader;
import org.apache.curator.framework.recipes.shared.VersionedValue;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryNTimes;
import java.util.concurrent.TimeUnit;

final class Counters {
    private Counters() {}

    static void addTo(Suite suite) {
        suite.add("shared-count-is-seen", Counters::sharedCountIsSeen);
        suite.add("atomic-long-counts", Counters::atomicLongCounts);
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
}
