package org.hllm4j.perf;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.hllm4j.HllmException;
import org.hllm4j.weights.Npy;

/**
 * The programs to compare with, as processes of their own: {@code hf_hllm.py} (HLLM on transformers) and
 * {@code torch_ops.py}. They print JSON lines.
 *
 * @param python an interpreter with torch and transformers
 * @param scripts folder of the programs
 * @param model Hugging Face folder of the model, for {@code hf_hllm.py}; null: it is not run
 * @param threads of each program
 */
record Peer(Path python, Path scripts, Path model, int threads) {
    static final String HF = "hf_hllm.py";
    static final String TORCH = "torch_ops.py";
    /**
     * It asks for its peak of memory before and after. The answer would be that of this JVM, which it was forked from, or
     * of an earlier operation; so the first of each two questions makes Linux count anew.
     */
    private static final String FRESH_PEAKS = """
        import itertools, resource, runpy, sys, types
        calls = itertools.count()
        def peak(who):
            if next(calls) % 2 == 0:
                with open("/proc/self/clear_refs", "w") as peaks: peaks.write("5")
            with open("/proc/self/status") as status:
                lines = [line for line in status if line.startswith("VmHWM:")]
            return types.SimpleNamespace(ru_maxrss=int(lines[0].split()[1]))
        resource.getrusage = peak
        runpy.run_path(sys.argv[1], run_name="__main__")
        """;

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int SHOWN = 2000; // characters of an error

    /**
     * What a program said.
     *
     * @param output on standard output
     * @param peakGb its peak of resident memory, 10^9 bytes
     */
    record Answer(String output, double peakGb) {
        List<JsonNode> lines() {
            return parse(output);
        }

        /** The only line. */
        JsonNode line() {
            return lines().getFirst();
        }

        double number(String what, String key) {
            return lines().stream()
                    .filter(line -> line.path("what").asText().equals(what))
                    .findFirst()
                    .map(line -> Peer.number(line, key))
                    .orElseThrow(() -> new HllmException("the peer printed no line with \"what\": \"" + what + "\""));
        }
    }

    static double number(JsonNode line, String key) {
        if (!line.path(key).isNumber()) {
            throw new HllmException("the peer printed no number \"" + key + "\" in " + line);
        }
        return line.get(key).doubleValue();
    }

    /** The lines of a program's output that are JSON objects; the rest is chatter. */
    static List<JsonNode> parse(String output) {
        List<JsonNode> lines = new ArrayList<>();
        for (String line : output.lines().filter(l -> l.startsWith("{")).toList()) {
            try {
                lines.add(JSON.readTree(line));
            } catch (JsonProcessingException e) {
                throw new HllmException("the peer printed a line that is no JSON: " + line, e);
            }
        }
        if (lines.isEmpty()) {
            throw new HllmException("the peer printed no JSON line");
        }
        return lines;
    }

    /** The words of a command line; each %s is the next value, whatever is in it. */
    static List<String> words(String line, Object... values) {
        Iterator<Object> next = List.of(values).iterator();
        return Arrays.stream(line.split(" "))
                .map(word -> word.equals("%s") ? next.next().toString() : word)
                .toList();
    }

    /** Runs {@code hf_hllm.py} on the model, see {@link #words}. */
    Answer hf(String line, Object... values) {
        List<String> arguments = new ArrayList<>(words(line, values));
        arguments.addAll(words("--model %s --threads %s", model, threads));
        return python(scripts.resolve(HF).toString(), arguments.toArray(String[]::new));
    }

    /** Runs {@code torch_ops.py}, so that the memory it reports of an operation is not hidden by an earlier peak. */
    Answer torch() {
        return python("-c", FRESH_PEAKS, scripts.resolve(TORCH).toString());
    }

    /** Runs the interpreter on a file, or on a program given after "-c". */
    Answer python(String first, String... arguments) {
        List<String> command = new ArrayList<>(List.of(python.toString(), first));
        command.addAll(List.of(arguments));
        String team = Integer.toString(threads);
        return execute(command, Map.of("OMP_NUM_THREADS", team, "MKL_NUM_THREADS", team, "HF_HUB_OFFLINE", "1"));
    }

    /** Runs a class of this program in a process of its own, as the launcher would. */
    static Answer java(String main, List<String> arguments) {
        Path java = Path.of(System.getProperty("java.home"), "bin", "java");
        List<String> command = new ArrayList<>(words("%s -XX:+UseSerialGC --enable-native-access=ALL-UNNAMED", java));
        if (System.getProperty("hllm.library") != null) {
            command.add("-Dhllm.library=" + System.getProperty("hllm.library"));
        }
        command.addAll(words("-cp %s %s", System.getProperty("java.class.path"), main));
        command.addAll(arguments);
        return execute(command, Map.of());
    }

    /** Runs a command to its end; an exit status other than 0 is an error. */
    static Answer execute(List<String> command, Map<String, String> environment) {
        try (Scratch scratch = Scratch.open()) {
            Path out = scratch.file("out");
            Path err = scratch.file("err");
            ProcessBuilder builder =
                    new ProcessBuilder(command).redirectOutput(out.toFile()).redirectError(err.toFile());
            builder.environment().putAll(environment);
            builder.environment().remove("OPENBLAS_CORETYPE"); // would choose kernels of an older processor
            Process process = builder.start();
            double peak = 0;
            try {
                do {
                    peak = Math.max(peak, Memory.peakGb(process.pid()));
                } while (!process.waitFor(20, TimeUnit.MILLISECONDS));
            } finally {
                process.destroyForcibly(); // where the benchmark itself was interrupted
            }
            if (process.exitValue() != 0) {
                String said = Files.readString(err);
                throw new HllmException(command.getFirst() + ": exit status " + process.exitValue() + ": "
                        + said.substring(Math.max(0, said.length() - SHOWN)));
            }
            return new Answer(Files.readString(out), peak);
        } catch (IOException e) {
            throw new HllmException(command.getFirst() + ": cannot be run: " + e, e);
        } catch (InterruptedException e) {
            throw new HllmException("interrupted", e);
        }
    }

    /** All numbers of a .npy file. */
    static float[] floats(Path npy) {
        try (Npy.Reader reader = Npy.open(npy)) {
            long elements = Arrays.stream(reader.shape()).reduce(1, (a, b) -> a * b);
            float[] values = new float[Math.toIntExact(elements)];
            reader.read(0, FloatBuffer.wrap(values));
            return values;
        }
    }

    /** Largest of |ours - theirs| / |theirs| over vectors of this width. */
    static double error(float[] ours, float[] theirs, int width) {
        double[] errors = errors(ours, theirs, width);
        return errors[errors.length - 1];
    }

    /** |ours - theirs| / |theirs| of vectors of this width, ascending; infinite where either is not a number. */
    static double[] errors(float[] ours, float[] theirs, int width) {
        if (ours.length != theirs.length) {
            return new double[] {Double.POSITIVE_INFINITY};
        }
        double[] errors = new double[ours.length / width];
        for (int v = 0; v < errors.length; v++) {
            double difference = 0;
            double size = 0;
            for (int i = v * width; i < (v + 1) * width; i++) {
                difference += Math.pow((double) ours[i] - theirs[i], 2);
                size += Math.pow(theirs[i], 2);
            }
            double error = Math.sqrt(difference / size);
            errors[v] = Double.isNaN(error) ? Double.POSITIVE_INFINITY : error;
        }
        Arrays.sort(errors);
        return errors;
    }
}
