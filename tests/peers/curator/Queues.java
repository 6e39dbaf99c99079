import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.HashSet;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.queue.BlockingQueueConsumer;
import org.apache.curator.framework.recipes.queue.DistributedDelayQueue;
import org.apache.curator.framework.recipes.queue.DistributedIdQueue;
import org.apache.curator.framework.recipes.queue.DistributedPriorityQueue;
import org.apache.curator.framework.recipes.queue.DistributedQueue;
import org.apache.curator.framework.recipes.queue.QueueBuilder;
import org.apache.curator.framework.recipes.queue.QueueConsumer;
import org.apache.curator.framework.recipes.queue.QueueSerializer;
import org.apache.curator.framework.recipes.queue.QueueSharder;
import org.apache.curator.framework.recipes.queue.QueueSharderPolicies;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.state.ConnectionState;

final class Queues {
    private static final int ITEMS = 60;

    private Queues() {}

    static void addTo(Suite suite) {
        suite.add("queue-keeps-the-order", Queues::queueKeepsTheOrder);
        suite.add("queue-gives-each-item-once", Queues::queueGivesEachItemOnce);
        suite.add("simple-queue-gives-each-item-once", Queues::simpleQueueGivesEachItemOnce);
        suite.add("priority-queue-sorts", Queues::priorityQueueSorts);
        suite.add("id-queue-takes-back", Queues::idQueueTakesBack);
        suite.add("delay-queue-waits", Queues::delayQueueWaits);
        suite.add("queue-sharder-makes-more-queues", Queues::queueSharderMakesMoreQueues);
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

    private static BlockingQueueConsumer<String> blocking() {
        return new BlockingQueueConsumer<>((client, state) -> {});
    }

    private static String next(BlockingQueueConsumer<String> items) throws Exception {
        return items.take(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS);
    }

    private static void priorityQueueSorts(Suite.Env env) throws Exception {
        BlockingQueueConsumer<String> consumed = blocking();
        try (DistributedPriorityQueue<String> source =
                        QueueBuilder.builder(env.client(), null, TEXT, env.path("queue")).buildPriorityQueue(1);
                DistributedPriorityQueue<String> sink =
                        QueueBuilder.builder(env.client(), consumed, TEXT, env.path("queue")).buildPriorityQueue(1)) {
            source.start();
            for (int priority : new int[] {5, 1, -3, 4, 2}) {
                source.put(Integer.toString(priority), priority);
            }
            Suite.check(source.flushPuts(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "all put");
            sink.start();
            for (String want : List.of("-3", "1", "2", "4", "5")) {
                Suite.checkEqual(want, next(consumed), "the most urgent");
            }
        }
    }

    private static void idQueueTakesBack(Suite.Env env) throws Exception {
        BlockingQueueConsumer<String> consumed = blocking();
        try (DistributedIdQueue<String> source =
                        QueueBuilder.builder(env.client(), null, TEXT, env.path("queue")).buildIdQueue();
                DistributedIdQueue<String> sink =
                        QueueBuilder.builder(env.client(), consumed, TEXT, env.path("queue")).buildIdQueue()) {
            source.start();
            source.put("a", "id-a");
            source.put("b", "id-b");
            source.put("c", "id-c");
            Suite.check(source.flushPuts(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "all put");
            Suite.checkEqual(1, source.remove("id-b"), "items of that id");
            Suite.checkEqual(0, source.remove("id-none"), "items of no such id");
            sink.start();
            Suite.checkEqual("a", next(consumed), "item");
            Suite.checkEqual("c", next(consumed), "item");
        }
    }

    private static void delayQueueWaits(Suite.Env env) throws Exception {
        BlockingQueueConsumer<String> consumed = blocking();
        try (DistributedDelayQueue<String> queue =
                QueueBuilder.builder(env.client(), consumed, TEXT, env.path("queue")).buildDelayQueue()) {
            queue.start();
            long due = System.currentTimeMillis() + 1_000;
            queue.put("later", due + 200);
            queue.put("due", due);
            queue.put("now", 1);
            Suite.checkEqual("now", next(consumed), "item");
            Suite.checkEqual("due", next(consumed), "item");
            Suite.check(System.currentTimeMillis() >= due, "not before its time");
            Suite.checkEqual("later", next(consumed), "item");
        }
    }

    private static void queueSharderMakesMoreQueues(Suite.Env env) throws Exception {
        CuratorFramework client = env.client();
        QueueSharderPolicies policies =
                QueueSharderPolicies.builder().newQueueThreshold(10).thresholdCheckMs(20).maxQueues(4).build();
        try (QueueSharder<String, DistributedQueue<String>> sharder = new QueueSharder<>(client,
                (framework, path) -> QueueBuilder.<String>builder(framework, null, TEXT, path).buildQueue(),
                env.path("queues"), env.path("leader"), policies)) {
            sharder.start();
            int[] put = {0};
            Suite.eventually("a second queue", () -> {
                DistributedQueue<String> queue = sharder.getQueue();
                queue.put(Integer.toString(put[0]++));
                Suite.check(queue.flushPuts(Suite.WAIT_SECONDS_MAX, TimeUnit.SECONDS), "put");
                return sharder.getShardQty() > 1;
            });
            int found = 0;
            for (String path : sharder.getQueuePaths()) {
                found += client.checkExists().forPath(path).getNumChildren();
            }
            Suite.checkEqual(put[0], found, "items in all queues");
        }
    }
}
