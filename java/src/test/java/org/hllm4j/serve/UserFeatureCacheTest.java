package org.hllm4j.serve;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.Branches;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.model.UserLlm;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.serve.UserFeatureCache.Options;
import org.hllm4j.serve.UserFeatureCache.Output;
import org.hllm4j.serve.UserFeatureCache.Request;
import org.hllm4j.serve.UserFeatureCache.Stats;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class UserFeatureCacheTest {
    private static final int ITEMS = 30;
    private static final int MAX = 20;
    private static final int SLACK = 15; // windows of up to 35 events: three pages
    private static final int BRANCHES = 7;
    private static final int USERS = 9;

    private final Random random = new Random(Tiny.seed());
    private String device = Tiny.device();
    private Context context;
    private Hllm model;
    private Hllm longer; // the same weights, with a max history that takes whole windows
    private Tensor table;
    private Workspace workspace;

    @BeforeEach
    void say() {
        System.out.println("seed " + Tiny.seed());
    }

    private void open(DType dtype) {
        context = Context.open(device, Context.activations(device, dtype));
        model = model(MAX);
        longer = model(MAX + SLACK);
        int width = model.config().width();
        float[] values = new float[ITEMS * width];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian();
        }
        table = context.of(values, ITEMS, width);
        workspace = context.workspace();
    }

    private Hllm model(int maxHistory) {
        HllmConfig tiny = Tiny.config(Pooling.TOKEN);
        Hllm made = new Hllm(
                context,
                new HllmConfig(tiny.item(), tiny.item(), Pooling.TOKEN, Tiny.MAX_TEXT, maxHistory, Fusion.LATE),
                Hllm.Trained.NOTHING,
                DType.F32);
        made.randomise(Hllm.Side.USER, Tiny.seed());
        made.randomiseRanker(Tiny.seed(), 0.3);
        return made;
    }

    private UserFeatureCache cache(DType dtype, int pages) {
        long rows = 16L * pages + BRANCHES;
        return new UserFeatureCache(
                model,
                new Options(rows * KeyValueArena.bytesPerRow(model.config().user(), dtype), SLACK, BRANCHES, dtype));
    }

    @AfterEach
    void nothingIsLeft() {
        if (context != null) {
            workspace.close();
            table.close();
            longer.close();
            model.close();
            context.close();
        }
        assertEquals(0, Context.available(device) ? Context.liveBytes(device) : 0);
    }

    /**
     * Users come and go, with new events, late ones, forgotten ones and wraps of the window, in batches of anything or of one
     * event each (a graph where the device has them), in memory for all or for hardly any of them: every answer is that of the
     * window computed at once.
     */
    @ParameterizedTest
    @CsvSource({
        "cpu, F32, 100, 150",
        "cpu, F32, 7, 150",
        "cpu, F32, 3, 150",
        "cpu, BF16, 100, 150",
        "cpu, BF16, 7, 150",
        "cuda-emulated, F32, 100, 40",
        "cuda-emulated, F32, 7, 40",
        "cuda-emulated, F32, 3, 40",
        "cuda-emulated, BF16, 100, 40",
        "cuda-emulated, BF16, 7, 40",
        "cuda, F32, 7, 150",
        "cuda, BF16, 7, 150"
    })
    void answersAreThoseOfTheWindow(String on, DType dtype, int pages, int steps) {
        device = on;
        assumeTrue(Context.available(device), device + " is not there");
        open(dtype);
        List<int[]> histories = new ArrayList<>();
        IntStream.range(0, USERS).forEach(u -> histories.add(new int[0]));
        int compared = 0;
        double worst = 0;
        try (UserFeatureCache cache = cache(dtype, pages)) {
            for (int step = 0; step < steps; step++) {
                List<Request> requests = step % 3 == 2 ? appends(histories) : anything(histories);
                List<Output> outputs = cache.outputs(table, requests);
                for (int i = 0; i < requests.size(); i++) {
                    float[] expected = expected(requests.get(i));
                    float[] found = outputs.get(i).states();
                    assertEquals(expected.length, found.length);
                    double off = dtype == DType.F32 ? largest(expected, found) : relative(expected, found);
                    assertTrue(off <= (dtype == DType.F32 ? 1e-4 : 3e-2), "step " + step + ", " + off);
                    worst = Math.max(worst, off);
                    compared += found.length;
                }
            }
            Stats stats = cache.stats();
            System.out.println(device + ", " + dtype + ", " + pages + " pages: " + compared
                    + " numbers, off by at most " + worst + "; " + stats);
            assertTrue(compared > 500 * steps);
            assertTrue(stats.hits() > steps / 2 && stats.misses() >= USERS, stats.toString());
            assertEquals(pages < USERS * 3, stats.evictions() > 0, stats.toString());
            assertTrue(stats.pagesUsed() <= pages && stats.pages() == pages, stats.toString());
            assertTrue(stats.computed() < stats.needed(), stats.toString());
            assertEquals(!device.equals("cpu"), stats.launches() > 0, stats.toString());
        }
    }

    /** What anybody may ask after any change, some of them several times, some of them for nobody. */
    private List<Request> anything(List<int[]> histories) {
        List<Request> requests = new ArrayList<>();
        for (int i = 1 + random.nextInt(2 * USERS); i > 0; i--) {
            int user = random.nextInt(USERS);
            histories.set(user, changed(histories.get(user)));
            boolean known = random.nextInt(8) > 0;
            requests.add(new Request(known ? "u" + user : null, histories.get(user), targets(histories.get(user))));
        }
        return requests;
    }

    /** One event more of some users, and the same question about each. */
    private List<Request> appends(List<int[]> histories) {
        int[] targets = random.nextBoolean() ? new int[0] : new int[] {UserFeatureCache.USER};
        int first = random.nextInt(USERS);
        return IntStream.range(first, random.nextInt(first, USERS) + 1)
                .mapToObj(user -> {
                    histories.set(user, with(histories.get(user), 1));
                    return new Request("u" + user, histories.get(user), targets);
                })
                .toList();
    }

    private int[] with(int[] history, int fresh) {
        return IntStream.concat(Arrays.stream(history), random.ints(fresh, 0, ITEMS))
                .toArray();
    }

    private static double largest(float[] a, float[] b) {
        return IntStream.range(0, a.length)
                .mapToDouble(i -> Math.abs(a[i] - b[i]))
                .max()
                .orElseThrow();
    }

    /** Length of the difference; keys and values of 8 bits of mantissa are off by a few of the last ones. */
    private static double relative(float[] expected, float[] found) {
        double difference = 0;
        double length = 0;
        for (int i = 0; i < expected.length; i++) {
            difference += Math.pow(expected[i] - found[i], 2);
            length += Math.pow(expected[i], 2);
        }
        return Math.sqrt(difference / length);
    }

    private int[] changed(int[] history) {
        int n = history.length;
        int kind = random.nextInt(20);
        if (kind == 0 && n > 0) { // an event is forgotten
            int gone = random.nextInt(n);
            return IntStream.range(0, n)
                    .filter(i -> i != gone)
                    .map(i -> history[i])
                    .toArray();
        }
        if (kind == 1) { // and one comes late
            int place = random.nextInt(n + 1);
            return IntStream.rangeClosed(0, n)
                    .map(i -> i < place ? history[i] : i == place ? random.nextInt(ITEMS) : history[i - 1])
                    .toArray();
        }
        return with(history, kind < 8 ? 0 : kind < 16 ? 1 : random.nextInt(6));
    }

    private int[] targets(int[] history) {
        return switch (random.nextInt(history.length == 0 ? 1 : 0, 3)) {
            case 0 -> new int[0];
            case 1 -> new int[] {UserFeatureCache.USER};
            default -> random.ints(1 + random.nextInt(3 * BRANCHES), 0, ITEMS).toArray();
        };
    }

    /** The window found by walking along the history, computed at once, by another route. */
    private float[] expected(Request request) {
        int start = 0;
        for (int n = 1; n <= request.history().length; n++) {
            start = n - start > MAX + SLACK ? n - MAX : start;
        }
        int[] window = Arrays.copyOfRange(request.history(), start, request.history().length);
        int[] targets = request.targets();
        int[] seen = new int[targets.length];
        Arrays.fill(seen, window.length);
        int[] inputs =
                IntStream.concat(Arrays.stream(window), Arrays.stream(targets)).toArray();
        Tensor x = workspace.floats(inputs.length, model.config().width());
        Tensor token = longer.ranker().userToken().value();
        context.ops().embeddingForward(x, workspace.ints(inputs), table, token);
        int[] lengths = {window.length};
        try (UserLlm.Pass pass = targets.length == 0
                ? longer.users().forward(workspace, x, lengths, new int[] {window.length - 1}, false)
                : longer.users().forward(workspace, x, new Branches(lengths, new int[][] {seen}), false, false)) {
            return pass.output().toFloats();
        } finally {
            workspace.release(0);
        }
    }

    @Test
    void anAppendCostsItsOwnPositionsAndARepetitionNothing() {
        open(DType.F32);
        int[] history = random.ints(30, 0, ITEMS).toArray();
        try (UserFeatureCache cache = cache(DType.F32, 10)) {
            assertEquals(21, computed(cache, Arrays.copyOf(history, 20), UserFeatureCache.USER));
            assertEquals(0, computed(cache, Arrays.copyOf(history, 20), UserFeatureCache.USER));
            assertEquals(1, computed(cache, Arrays.copyOf(history, 20)), "the last event again, for its output");
            assertEquals(2, computed(cache, Arrays.copyOf(history, 21), UserFeatureCache.USER), "the event and [USER]");
            assertEquals(5, computed(cache, Arrays.copyOf(history, 24), 1, 2));
            assertEquals(1, computed(cache, Arrays.copyOf(history, 25)));
            assertEquals(0, computed(cache, Arrays.copyOf(history, 25)));
            assertEquals(
                    20,
                    computed(
                            cache,
                            Arrays.copyOf(history, 25),
                            IntStream.range(0, 20).toArray()),
                    "in three passes");
            assertEquals(0, cache.outputs(table, List.of()).size());
            assertEquals(1, cache.stats().misses());
            assertEquals(2, cache.stats().pagesUsed());
        }
    }

    private int computed(UserFeatureCache cache, int[] history, int... targets) {
        Output output = cache.outputs(table, List.of(new Request("u", history, targets)))
                .getFirst();
        assertEquals(history.length, output.events());
        assertEquals(history.length + targets.length, output.needed());
        return output.computed();
    }

    /** Who was asked for longest ago goes first, and nobody of the running batch. */
    @Test
    void theLeastRecentlyAskedForAreEvicted() {
        open(DType.F32);
        int[] history = random.ints(MAX, 0, ITEMS).toArray(); // two pages
        try (UserFeatureCache cache = cache(DType.F32, 6)) {
            for (String user : List.of("a", "b", "c", "a", "d")) { // d takes the pages of b
                cache.outputs(table, List.of(new Request(user, history)));
            }
            assertEquals(new Stats(1, 4, 1, 6, 6, 4 * MAX, 5 * MAX, 0), cache.stats());
            List<Request> batch = List.of("b", "a", "d", "c", "b", "e", "f").stream()
                    .map(user -> new Request(user, history))
                    .toList();
            List<Output> outputs = cache.outputs(table, batch);
            outputs.forEach(output -> assertArrayEquals(outputs.getFirst().states(), output.states(), 1e-5f));
            assertEquals(6, cache.stats().pagesUsed());
        }
    }

    @Test
    void usersOfAPassThatFailsAreForgotten() {
        open(DType.F32);
        int[] history = random.ints(MAX, 0, ITEMS).toArray();
        try (UserFeatureCache cache = cache(DType.F32, 6)) {
            computed(cache, Arrays.copyOf(history, MAX - 1));
            Context.memoryLimit(device, 1);
            assertThrows(HllmException.class, () -> cache.outputs(table, List.of(new Request("u", new int[17], 1))));
            Context.memoryLimit(device, 0);
            assertEquals(0, cache.stats().pagesUsed());
            assertEquals(MAX, computed(cache, history));
        } finally {
            Context.memoryLimit(device, 0);
        }
    }

    @Test
    void somebodyWithoutAHistoryIsRankedForButNotPredicted() {
        open(DType.F32);
        try (UserFeatureCache cache = cache(DType.F32, 6)) {
            Request user = new Request("new", new int[0], UserFeatureCache.USER);
            Request candidates = new Request("new", new int[0], 3, 4, 5);
            List<Output> outputs = cache.outputs(table, List.of(user, candidates, user));
            assertArrayEquals(expected(user), outputs.get(0).states(), 1e-4f);
            assertArrayEquals(expected(candidates), outputs.get(1).states(), 1e-4f);
            assertArrayEquals(outputs.get(0).states(), outputs.get(2).states());
            assertEquals(0, cache.stats().pagesUsed());
            assertThrows(HllmException.class, () -> cache.outputs(table, List.of(new Request("new", new int[0]))));
        }
    }

    @Test
    void theWindowGrowsBySlackAndStartsAnew() {
        int begin = 0;
        for (int n = 1; n < 500; n++) {
            begin = n - begin > MAX + SLACK ? n - MAX : begin;
            assertEquals(begin, UserFeatureCache.start(n, MAX, SLACK), "after " + n + " events");
            assertEquals(Math.max(0, n - MAX), UserFeatureCache.start(n, MAX, 0));
        }
    }

    @Test
    void aBudgetThatHoldsNobodyAndSlackThatTheModelHasNoPositionsForAreRefused() {
        open(DType.F32);
        HllmException small = assertThrows(HllmException.class, () -> cache(DType.F32, 2));
        assertTrue(small.getMessage().contains("expected at least"), small.getMessage());
        Options wide = new Options(1 << 20, MAX + 1, 1, DType.F32);
        assertThrows(HllmException.class, () -> new UserFeatureCache(model, wide));
    }
}
