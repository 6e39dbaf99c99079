package peers;

import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.server.ServerCnxn;
import org.apache.zookeeper.server.ServerCnxnFactory;
import org.apache.zookeeper.server.ZooKeeperServer;

/**
 * What Apache's tests start when they start a server: a process of the program under test.
 *
 * <p>Apache's server takes its connections from the class that {@code zookeeper.serverCnxnFactory} names. With this one
 * the {@link ZooKeeperServer} that a test makes never serves; its data directory, its times and the system properties
 * that the test has set go to the program, on the same port. {@link #getZooKeeperServer} is null, so a test that looks
 * into the server fails.
 */
public class ExternalServer extends ServerCnxnFactory {

    private static final String PROGRAM = System.getProperty("peers.server");
    private static final File OUTPUT = new File(System.getProperty("peers.output"));
    private static final long PATIENCE_SECONDS = 30;

    private InetSocketAddress address;
    private int perHost = 60;
    private int backlog = -1;
    private Process process;
    private ZooKeeperServer served;

    @Override
    public void configure(InetSocketAddress addr, int maxcc, int listenBacklog, boolean secure) {
        if (secure) {
            throw new UnsupportedOperationException("TLS");
        }
        address = addr;
        perHost = maxcc;
        backlog = listenBacklog;
    }

    @Override
    public void startup(ZooKeeperServer server, boolean startServer) throws IOException, InterruptedException {
        served = server;
        // That directory is the one with the snapshots.
        Path data = server.getTxnLogFactory().getSnapDir().getParentFile().toPath().toAbsolutePath();
        Path config = data.resolve("zoo.cfg");
        List<String> lines = new ArrayList<>();
        lines.add("dataDir=" + data);
        lines.add("dataLogDir=" + server.getTxnLogFactory().getDataDir().getParentFile().getAbsolutePath());
        lines.add("clientPort=" + address.getPort());
        lines.add("tickTime=" + server.getTickTime());
        lines.add("minSessionTimeout=" + server.getMinSessionTimeout());
        lines.add("maxSessionTimeout=" + server.getMaxSessionTimeout());
        lines.add("maxClientCnxns=" + Math.max(perHost, 0));
        lines.addAll(properties());
        Files.write(config, lines);
        ProcessBuilder builder = new ProcessBuilder(PROGRAM, "start-foreground", config.toString());
        builder.redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.appendTo(OUTPUT));
        process = builder.start();
        // If the test forgets it.
        Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
        while (!serves()) {
            if (!process.isAlive() || System.nanoTime() > end) {
                process.destroyForcibly();
                throw new IOException("the server does not serve: see " + OUTPUT);
            }
            Thread.sleep(10);
        }
    }

    /** Those that a server reads, as they stand in its configuration. A Java class is of no use to another program. */
    private static List<String> properties() {
        List<String> lines = new ArrayList<>();
        for (String name : System.getProperties().stringPropertyNames()) {
            boolean read = name.startsWith("zookeeper.") || name.startsWith("jute.") || name.startsWith("znode.container.")
                || name.equals("readonlymode.enabled");
            if (read && !name.equals(ZOOKEEPER_SERVER_CNXN_FACTORY) && !name.startsWith("zookeeper.authProvider.")) {
                lines.add(name.replaceFirst("^zookeeper\\.", "") + "=" + System.getProperty(name));
            }
        }
        return lines;
    }

    /** Whether it answers. A test says which words are allowed; srvr always is. */
    private boolean serves() {
        try (Socket socket = new Socket("127.0.0.1", address.getPort())) {
            socket.setSoTimeout(5000);
            socket.getOutputStream().write("srvr".getBytes(StandardCharsets.US_ASCII));
            InputStream in = socket.getInputStream();
            StringBuilder answer = new StringBuilder();
            for (int c = in.read(); c >= 0; c = in.read()) {
                answer.append((char) c);
            }
            return answer.toString().contains("Mode: ");
        } catch (IOException e) {
            return false;
        }
    }

    @Override
    public void shutdown() {
        if (process == null) {
            return;
        }
        process.destroy();
        try {
            if (!process.waitFor(PATIENCE_SECONDS, TimeUnit.SECONDS)) {
                process.destroyForcibly().waitFor();
                throw new IllegalStateException("the server does not stop: see " + OUTPUT);
            }
        } catch (InterruptedException e) {
            process.destroyForcibly();
            Thread.currentThread().interrupt();
        }
        process = null;
    }

    @Override
    public void join() throws InterruptedException {
        if (process != null) {
            process.waitFor();
        }
    }

    @Override
    public void start() {
    }

    @Override
    public int getLocalPort() {
        return address.getPort();
    }

    @Override
    public InetSocketAddress getLocalAddress() {
        return address;
    }

    @Override
    public int getMaxClientCnxnsPerHost() {
        return perHost;
    }

    /** A program that runs takes up no other limit, so it is started again. */
    @Override
    public void setMaxClientCnxnsPerHost(int max) {
        perHost = max;
        if (process == null) {
            return;
        }
        shutdown();
        try {
            startup(served, true);
        } catch (IOException | InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    @Override
    public int getSocketListenBacklog() {
        return backlog;
    }

    @Override
    public Iterable<ServerCnxn> getConnections() {
        throw new UnsupportedOperationException("connections of another process");
    }

    @Override
    public void closeAll(ServerCnxn.DisconnectReason reason) {
        throw new UnsupportedOperationException("connections of another process");
    }

    @Override
    public void reconfigure(InetSocketAddress addr) {
        throw new UnsupportedOperationException("another address");
    }

    @Override
    public void resetAllConnectionStats() {
        throw new UnsupportedOperationException("connections of another process");
    }

    @Override
    public Iterable<Map<String, Object>> getAllConnectionInfo(boolean brief) {
        return Collections.emptyList();
    }
}
