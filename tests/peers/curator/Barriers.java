import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;

final class Barriers {
    private static final int MEMBERS = 4;

    private Barriers() {}

    static void addTo(Suite suite) {
        suite.add("barrier-holds-until-removed", Barriers::barrierHoldsUntilRemoved);
        suite.add("double-barrier-gathers-twice", Barriers::doubleBarrierGathersTwice);
    }

    private static void barrierHoldsUntilRemoved(Suite.Env env) throws Exception {
        DistributedBarrier barrier = new DistributedBarrier(env.client(), env.path("barrier"));
        barrier.setBarrier();
        Suite.check(!barrier.waitOnBarrier(200, TimeUnit.MILLISECONDS), "the barrier holds");
        AtomicInteger waiting = new AtomicInteger();
        AtomicInteger passed = new AtomicInteger();
        var waiters = env.start(MEMBERS, i -> {
            DistributedBarrier mine = new DistributedBarrier(env.client(), env.path("barrier"));
            waiting.incrementAndGet();
            Suite.check(mine.waitOnBarrier(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "released");
            passed.incrementAndGet();
        });
        Suite.eventually("all wait", () -> waiting.get() == MEMBERS);
        Suite.checkEqual(0, passed.get(), "passed before the removal");
        barrier.removeBarrier();
        env.await(waiters);
        Suite.check(barrier.waitOnBarrier(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "no barrier, no wait");
    }

    private static void doubleBarrierGathersTwice(Suite.Env env) throws Exception {
        AtomicInteger entering = new AtomicInteger();
        AtomicInteger leaving = new AtomicInteger();
        env.inParallel(MEMBERS, i -> {
            CuratorFramework client = env.client();
            DistributedDoubleBarrier barrier = new DistributedDoubleBarrier(client, env.path("barrier"), MEMBERS);
            entering.incrementAndGet();
            Suite.check(barrier.enter(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "entered");
            Suite.checkEqual(MEMBERS, entering.get(), "members when one is let in");
            leaving.incrementAndGet();
            Suite.check(barrier.leave(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "left");
            Suite.checkEqual(MEMBERS, leaving.get(), "members when one is let out");
        });
    }
}
