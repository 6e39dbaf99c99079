import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderSelector;
import org.apache.curator.framework.recipes.leader.LeaderSelectorListenerAdapter;

final class Leaders {
    private Leaders() {}

    static void addTo(Suite suite) {
        suite.add("leader-latch-moves-on-close", Leaders::latchMovesOnClose);
        suite.add("leader-latch-moves-when-its-session-dies", Leaders::latchMovesWhenItsSessionDies);
        suite.add("leader-selector-takes-turns", Leaders::selectorTakesTurns);
    }

    private static LeaderLatch onlyLeader(List<LeaderLatch> latches) throws Exception {
        Suite.eventually("one leader", () -> latches.stream().anyMatch(LeaderLatch::hasLeadership));
        List<LeaderLatch> leaders = latches.stream().filter(LeaderLatch::hasLeadership).toList();
        Suite.checkEqual(1, leaders.size(), "leaders");
        return leaders.get(0);
    }

    private static void latchMovesOnClose(Suite.Env env) throws Exception {
        int count = 4;
        List<LeaderLatch> latches = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            LeaderLatch latch = new LeaderLatch(env.client(), env.path("latch"), "member " + i);
            latch.start();
            latches.add(latch);
        }
        Suite.eventually("all take part", () -> latches.get(0).getParticipants().size() == count);
        Set<String> led = new HashSet<>();
        while (!latches.isEmpty()) {
            LeaderLatch leader = onlyLeader(latches);
            Suite.checkEqual(leader.getId(), latches.get(0).getLeader().getId(), "leader as all see it");
            Suite.check(led.add(leader.getId()), "each leads once");
            latches.remove(leader);
            leader.close();
        }
        Suite.checkEqual(count, led.size(), "leaders in all");
    }

    private static void latchMovesWhenItsSessionDies(Suite.Env env) throws Exception {
        List<CuratorFramework> clients = List.of(env.client(), env.client());
        List<LeaderLatch> latches = new ArrayList<>();
        for (CuratorFramework client : clients) {
            LeaderLatch latch = new LeaderLatch(client, env.path("latch"));
            latch.start();
            latches.add(latch);
        }
        Suite.eventually("both take part", () -> latches.get(0).getParticipants().size() == 2);
        LeaderLatch leader = onlyLeader(latches);
        LeaderLatch heir = latches.get(1 - latches.indexOf(leader));
        env.killSession(clients.get(latches.indexOf(leader)));
        Suite.eventually("the other leads", heir::hasLeadership);
        Suite.check(!leader.hasLeadership(), "the dead session's latch knows that it leads no more");
        // It stands again by itself, behind the heir.
        Suite.eventually("both take part again", () -> heir.getParticipants().size() == 2);
        heir.close();
        Suite.eventually("it leads again", leader::hasLeadership);
        leader.close();
    }

    private static void selectorTakesTurns(Suite.Env env) throws Exception {
        int count = 3;
        int turns = 3;
        AtomicInteger leaders = new AtomicInteger();
        ConcurrentLinkedQueue<Integer> order = new ConcurrentLinkedQueue<>();
        ConcurrentLinkedQueue<String> violations = new ConcurrentLinkedQueue<>();
        List<LeaderSelector> selectors = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            int member = i;
            LeaderSelector selector = new LeaderSelector(env.client(), env.path("selector"),
                    new LeaderSelectorListenerAdapter() {
                        @Override
                        public void takeLeadership(CuratorFramework client) throws Exception {
                            if (leaders.incrementAndGet() != 1) {
                                violations.add("two leaders at the turn of " + member);
                            }
                            order.add(member);
                            client.checkExists().forPath(env.base);
                            leaders.decrementAndGet();
                        }
                    });
            selector.autoRequeue();
            selector.setId("member " + i);
            selectors.add(selector);
        }
        selectors.forEach(LeaderSelector::start);
        Suite.eventually("each led some times", () -> {
            List<Integer> sofar = new ArrayList<>(order);
            for (int member = 0; member < count; member++) {
                int wanted = member;
                if (sofar.stream().filter(m -> m == wanted).count() < turns) {
                    return false;
                }
            }
            return true;
        });
        selectors.forEach(LeaderSelector::close);
        Suite.check(violations.isEmpty(), violations.toString());
    }
}
