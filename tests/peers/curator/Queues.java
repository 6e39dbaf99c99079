import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.HashSet;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.stream.IntStream;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.queue.DistributedQueue;
import org.apache.curator.framework.recipes.queue.QueueBuilder;
import org.apache.curator.framework.recipes.queue.QueueConsumer;
import org.apache.curator.framework.recipes.queue.QueueSerializer;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.state.ConnectionState;

final class Queues {
    private static final int ITEMS = 60;

    private Queues() {}

    static void addTo(Suite suite) {
        suite.add("queue-keeps-the-order", Queues::queueKeepsTheOrder);
        suite.add("queue-gives-each-item-once", Queues::queueGivesEachItemOnce);
        suite.add("simple-queue-gives-each-item-once", Queues::simpleQueueGivesEachItemOnce);
    }

    private static final QueueSerializer<String> TEXT = new QueueSerializer<>() {
        @Override
        public byte[] serialize(String item) {
            return item.getBytes(UTF_8);
        }

        @Override
        public String deserialize(byte[] bytes) {
            return new String(bytes, UTF_8);
        }
    };

    private static QueueConsumer<String> into(List<String> items) {
        return new QueueConsumer<>() {
            @Override
            public void consumeMessage(String item) {
                items.add(item);
            }

            @Override
            public void stateChanged(CuratorFramework client, ConnectionState state) {}
        };
    }

    private static List<String> numbers() {
        return IntStream.range(0, ITEMS).mapToObj(Integer::toString).toList();
    }

    private static void queueKeepsTheOrder(Suite.Env env) throws Exception {
        List<String> consumed = new CopyOnWriteArrayList<>();
        try (DistributedQueue<String> source =
                        QueueBuilder.builder(env.client(), null, TEXT, env.path("queue")).buildQueue();
                DistributedQueue<String> sink =
                        QueueBuilder.builder(env.client(), into(consumed), TEXT, env.path("queue")).buildQueue()) {
            source.start();
            sink.start();
            for (String item : numbers()) {
                source.put(item);
            }
            Suite.eventually("all consumed", () -> consumed.size() >= ITEMS);
        }
        Suite.checkEqual(numbers(), consumed, "items in their order");
    }

    private static void queueGivesEachItemOnce(Suite.Env env) throws Exception {
        List<String> consumed = new CopyOnWriteArrayList<>();
        // With a lock path, an item is held by an ephemeral node while it is consumed.
        DistributedQueue<String> first = QueueBuilder
                .builder(env.client(), into(consumed), TEXT, env.path("queue")).lockPath(env.path("locks")).buildQueue();
        DistributedQueue<String> second = QueueBuilder
                .builder(env.client(), into(consumed), TEXT, env.path("queue")).lockPath(env.path("locks")).buildQueue();
        try (first; second) {
            first.start();
            second.start();
            for (String item : numbers()) {
                first.put(item);
            }
            Suite.eventually("all consumed", () -> consumed.size() >= ITEMS);
        }
        Suite.checkEqual(ITEMS, consumed.size(), "items");
        Suite.checkEqual(new HashSet<>(numbers()), new HashSet<>(consumed), "items");
    }

    private static void simpleQueueGivesEachItemOnce(Suite.Env env) throws Exception {
        List<String> consumed = new CopyOnWriteArrayList<>();
        SimpleDistributedQueue source = new SimpleDistributedQueue(env.client(), env.path("queue"));
        var consumers = env.start(3, i -> {
            SimpleDistributedQueue sink = new SimpleDistributedQueue(env.client(), env.path("queue"));
            for (int taken = 0; taken < ITEMS / 3; taken++) {
                consumed.add(new String(sink.take(), UTF_8));
            }
        });
        for (String item : numbers()) {
            Suite.check(source.offer(item.getBytes(UTF_8)), "offered");
        }
        env.await(consumers);
        Suite.checkEqual(new HashSet<>(numbers()), new HashSet<>(consumed), "items");
        Suite.checkEqual(null, source.peek(), "what is left");
    }
}
