import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;

/**
 * Creates znodes one after the other, with Apache's client, until it is told to end ('e') on standard input. Then everything that
 * was acknowledged must be there, and the session must be the one that it began with. 'h' holds it, and 'g' lets it go on. Argument:
 * the servers.
 */
public final class JavaLoad implements Watcher {
    private static final int PATIENCE_S = 60;
    private final CountDownLatch connected = new CountDownLatch(1);
    private final AtomicInteger connections = new AtomicInteger();
    private volatile boolean expired;

    public static void main(String[] args) throws Exception {
        String error = new JavaLoad().run(args[0]);
        if (error != null) {
            System.out.println(error);
            System.exit(1);
        }
        // The client's threads are nobody's business any more.
        System.exit(0);
    }

    @Override
    public void process(WatchedEvent event) {
        if (event.getState() == Event.KeeperState.Expired) {
            expired = true;
        } else if (event.getState() == Event.KeeperState.SyncConnected && event.getType() == Event.EventType.None) {
            connections.incrementAndGet();
            connected.countDown();
        }
    }

    private String run(String servers) throws Exception {
        ZooKeeper client = new ZooKeeper(servers, 20_000, this);
        if (!connected.await(PATIENCE_S, TimeUnit.SECONDS)) {
            return "no connection";
        }
        long session = client.getSessionId();
        client.create("/java", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        client.create("/java/alive", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        System.out.println("ready");
        List<String> acknowledged = new ArrayList<>();
        for (int number = 1; goesOn() && !expired; number++) {
            String name = "n" + number;
            try {
                client.create("/java/" + name, name.getBytes(), Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
                acknowledged.add(name);
            } catch (KeeperException lost) {
                // It may be there or not.
                Thread.sleep(20);
            }
        }
        Set<String> there = new HashSet<>(children(client));
        if (expired || client.getSessionId() != session || !there.contains("alive")) {
            return "the session was lost";
        }
        acknowledged.removeIf(there::contains);
        if (!acknowledged.isEmpty()) {
            return acknowledged.size() + " acknowledged writes are lost: " + acknowledged.get(0) + " is the first";
        }
        client.close();
        System.out.println((there.size() - 1) + " znodes of Java's client, over " + connections + " connections");
        return null;
    }

    /** Does what it was told meanwhile. */
    private static boolean goesOn() throws Exception {
        while (System.in.available() > 0) {
            int told = System.in.read();
            if (told == 'h') {
                System.out.println("held");
                told = System.in.read();
            }
            if (told == 'e') {
                return false;
            }
        }
        return true;
    }

    private List<String> children(ZooKeeper client) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_S);
        while (true) {
            try {
                return client.getChildren("/java", false);
            } catch (KeeperException.ConnectionLossException lost) {
                if (System.nanoTime() > deadline) {
                    throw lost;
                }
                Thread.sleep(20);
            }
        }
    }
}
