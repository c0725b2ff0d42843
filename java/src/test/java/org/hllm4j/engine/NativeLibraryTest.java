package org.hllm4j.engine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.hllm4j.HllmException;
import org.hllm4j.bindings.Hllm;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * A library can be loaded once per process, so every case runs in a JVM of its own, with an empty working directory.
 */
class NativeLibraryTest {
    /** What the child does: open a context, or tell why not. */
    static final class Child {
        public static void main(String[] args) {
            try (Context context = Context.open("cpu")) {
                System.out.println("opened " + context.device() + ": " + Context.buildInfo());
                Context.open("cuda").close();
            } catch (HllmException e) {
                System.out.println("refused: " + e.getMessage());
            }
        }
    }

    @TempDir
    Path folder;

    private String child(Path resources, String... options) throws IOException, InterruptedException {
        String classPath = Stream.concat(
                        Stream.ofNullable(resources).map(Path::toString),
                        Stream.of(Hllm.class, Context.class, Child.class)
                                .map(type -> new File(type.getProtectionDomain()
                                                .getCodeSource()
                                                .getLocation()
                                                .getPath())
                                        .getPath())
                                .distinct())
                .collect(Collectors.joining(File.pathSeparator));
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(List.of(options));
        command.addAll(List.of("-cp", classPath, Child.class.getName()));
        Process process = new ProcessBuilder(command)
                .directory(Files.createDirectories(folder.resolve("empty")).toFile())
                .redirectErrorStream(true)
                .start();
        String output = new String(process.getInputStream().readAllBytes());
        assertEquals(0, process.waitFor(), output);
        return output;
    }

    private static void assertContains(String output, String... parts) {
        for (String part : parts) {
            assertTrue(output.contains(part), () -> "no '" + part + "' in: " + output);
        }
    }

    @Test
    void aMissingFileIsNamed() throws Exception {
        Path missing = folder.resolve("nowhere/libhllm.so");
        String output = child(null, "--enable-native-access=ALL-UNNAMED", "-Dhllm.library=" + missing);
        assertContains(output, "refused: cannot load", "hllm.library: " + missing + ": no such file");
        assertContains(output, System.getProperty("os.name"), "JDK " + Runtime.version(), "-Dhllm.library=");
        assertFalse(output.contains("resource"), output); // an explicit path has no substitute
    }

    @Test
    void whatTheLinkerSaysIsTold() throws Exception {
        Path text = Files.writeString(folder.resolve("libhllm.so"), "not a library");
        String output = child(null, "--enable-native-access=ALL-UNNAMED", "-Dhllm.library=" + text);
        assertContains(output, "refused: cannot load", text + ": " + text, "file too short");
    }

    @Test
    void anotherLibraryIsRefused() throws Exception {
        Path other = Path.of(System.getProperty("java.home"), "lib", "libjava.so");
        String output = child(null, "--enable-native-access=ALL-UNNAMED", "-Dhllm.library=" + other);
        assertContains(output, "refused: cannot load", other.toString());
    }

    @Test
    void deniedNativeAccessTellsTheOption() throws Exception {
        Path text = Files.writeString(folder.resolve("libhllm.so"), "not a library");
        String output = child(null, "--illegal-native-access=deny", "-Dhllm.library=" + text);
        assertContains(output, "refused:", "--enable-native-access=ALL-UNNAMED");
    }

    @Test
    void theResourceIsExtractedAndDeleted() throws Exception {
        String library = System.getProperty("hllm.library", "");
        assumeTrue(!library.isEmpty(), "skipped: the system property hllm.library does not name libhllm.so");
        String arch = System.getProperty("os.arch").replace("amd64", "x86_64");
        Path resource = folder.resolve("classes/org/hllm4j/native/linux-" + arch + "/libhllm.so");
        Files.createDirectories(resource.getParent());
        Files.copy(Path.of(library), resource);
        // The core opens its plugin beside itself: one that is none is found there, and refused.
        Files.writeString(resource.resolveSibling("libhllm_cuda.so"), "not a library");
        Path temporary = Files.createDirectory(folder.resolve("tmp"));
        String output =
                child(folder.resolve("classes"), "--enable-native-access=ALL-UNNAMED", "-Djava.io.tmpdir=" + temporary);
        assertContains(output, "opened cpu: ");
        assertContains(output, "refused: ", "libhllm_cuda.so: file too short");
        try (Stream<Path> left = Files.list(temporary)) {
            assertEquals(List.of(), left.toList());
        }
    }
}
