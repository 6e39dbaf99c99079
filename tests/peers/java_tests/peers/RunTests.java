package peers;

import static org.junit.platform.engine.discovery.DiscoverySelectors.selectClass;

import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import org.junit.platform.engine.FilterResult;
import org.junit.platform.engine.TestDescriptor;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.TestSource;
import org.junit.platform.engine.support.descriptor.MethodSource;
import org.junit.platform.launcher.PostDiscoveryFilter;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;

/**
 * Runs the tests of a class, but for those that are skipped. Each class has a process of its own, for tests set properties
 * for good, and Apache's classes read some of them only once.
 *
 * <p>Arguments: a file whose lines are {@code CLASS#METHOD REASON}, and the class. Exit code 1 if a test failed, if one
 * that is skipped does not exist, or if none ran.
 */
public class RunTests {

    public static void main(String[] arguments) throws Exception {
        Map<String, String> reasons = new HashMap<>();
        for (String line : Files.readAllLines(Paths.get(arguments[0]))) {
            int blank = line.indexOf(' ');
            reasons.put(line.substring(0, blank), line.substring(blank + 1).trim());
        }
        Set<String> skipped = new HashSet<>();
        Report report = new Report();
        LauncherDiscoveryRequestBuilder request = LauncherDiscoveryRequestBuilder.request();
        request.selectors(selectClass(arguments[1]));
        request.filters((PostDiscoveryFilter) test -> filter(test, reasons, skipped));
        LauncherFactory.create().execute(request.build(), report);
        for (String name : reasons.keySet()) {
            if (name.startsWith(arguments[1] + "#") && !skipped.contains(name)) {
                System.out.println("FAILED: there is no test " + name + " to skip");
                report.failed++;
            }
        }
        System.out.printf("%d tests passed, %d failed, %d skipped%n", report.passed, report.failed, skipped.size());
        // Clients that a test has left behind must not keep the process.
        System.exit(report.failed == 0 && report.passed > 0 ? 0 : 1);
    }

    private static FilterResult filter(TestDescriptor test, Map<String, String> reasons, Set<String> skipped) {
        String name = test.getSource().map(RunTests::name).orElse(null);
        if (name == null || !reasons.containsKey(name)) {
            return FilterResult.included("");
        }
        if (skipped.add(name)) {
            System.out.println("skipped " + name + ": " + reasons.get(name));
        }
        return FilterResult.excluded(reasons.get(name));
    }

    /** {@code CLASS#METHOD} of a test, by the class that is run and not the one that it may have the method from. */
    private static String name(TestSource source) {
        if (!(source instanceof MethodSource)) {
            return null;
        }
        MethodSource method = (MethodSource) source;
        return method.getClassName() + "#" + method.getMethodName();
    }

    private static class Report implements TestExecutionListener {
        int passed;
        int failed;
        private long begin;

        @Override
        public void executionStarted(TestIdentifier test) {
            begin = System.nanoTime();
        }

        @Override
        public void executionFinished(TestIdentifier test, TestExecutionResult result) {
            long ms = (System.nanoTime() - begin) / 1_000_000;
            String name = test.getSource().map(RunTests::name).orElse(test.getDisplayName());
            if (result.getStatus() == TestExecutionResult.Status.SUCCESSFUL) {
                if (test.isTest()) {
                    passed++;
                    System.out.println("passed " + name + " in " + ms + " ms");
                }
                return;
            }
            failed++;
            System.out.println("FAILED " + name + " in " + ms + " ms");
            result.getThrowable().ifPresent(why -> why.printStackTrace(System.out));
        }
    }
}
