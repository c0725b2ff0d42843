package org.hllm4j.engine;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.hllm4j.HllmException;
import org.hllm4j.bindings.Hllm;

/**
 * Finds and loads {@code libhllm.so}, once per process. The places, in this order:
 *
 * <ol>
 *   <li>the system property {@code hllm.library}, an absolute path; where it is set, nothing else is tried
 *   <li>the resource {@code org/hllm4j/native/linux-<arch>/libhllm.so} (arch: x86_64, aarch64), and the CUDA plugin where it
 *       lies beside it
 *   <li>{@code build/libhllm.so} of the source checkout that holds the working directory
 * </ol>
 */
final class NativeLibrary {
    private static final String FILE = "libhllm.so";
    private static final String PLUGIN = "libhllm_cuda.so"; // opened by the library, from its own folder

    private static volatile boolean loaded;

    private NativeLibrary() {}

    /**
     * Loads the library unless it is loaded. {@code System.load} must run in a class of the same class loader as the
     * generated bindings, because these look symbols up in the libraries of their loader.
     *
     * @throws HllmException naming every place tried, and what the dynamic linker said
     */
    static void load() {
        if (!loaded) {
            loadOnce();
        }
    }

    private static synchronized void loadOnce() {
        if (loaded) {
            return;
        }
        List<String> tried = new ArrayList<>();
        String property = System.getProperty("hllm.library");
        boolean found = property != null && !property.isEmpty()
                ? tryFile(Path.of(property), "system property hllm.library", tried)
                : tryResource(tried) || tryCheckout(tried);
        if (!found) {
            throw new HllmException("cannot load the native library " + FILE + " (" + platform() + ").\n  Tried:\n    "
                    + String.join("\n    ", tried)
                    + "\n  Build it with cmake, or name it with -Dhllm.library=/absolute/path/" + FILE + ".");
        }
        loaded = true;
    }

    private static boolean tryFile(Path file, String origin, List<String> tried) {
        String place = origin + ": " + file;
        if (!Files.isRegularFile(file)) {
            tried.add(place + ": no such file");
            return false;
        }
        try {
            System.load(file.toAbsolutePath().toString());
            int version = Hllm.hllm_abi_version();
            int major = version >>> 16;
            int minor = version & 0xffff;
            if (major != Hllm.HLLM_ABI_MAJOR() || minor < Hllm.HLLM_ABI_MINOR()) {
                throw new HllmException(place + " has ABI " + major + "." + minor + ", but this hllm4j needs "
                        + Hllm.HLLM_ABI_MAJOR() + "." + Hllm.HLLM_ABI_MINOR()
                        + " or a later minor. Use the library that was built together with this jar.");
            }
            // Links it now: between a failed call and reading its text nothing may run on this thread.
            Hllm.hllm_error_message();
            System.getLogger(NativeLibrary.class.getName()).log(System.Logger.Level.DEBUG, "loaded {0}", place);
            return true;
        } catch (IllegalCallerException denied) {
            throw new HllmException(
                    place + ": the JVM denies native access to hllm4j: start it with --enable-native-access=ALL-UNNAMED"
                            + " (on the module path: --enable-native-access=org.hllm4j,org.hllm4j.bindings)",
                    denied);
        } catch (LinkageError refused) { // dlopen failed, or the file is some other library without our symbols
            Throwable cause = refused.getCause() == null ? refused : refused.getCause();
            tried.add(place + ": " + cause.getMessage());
            return false;
        }
    }

    private static boolean tryResource(List<String> tried) {
        String place = "org/hllm4j/native/linux-" + arch() + "/";
        String name = place + FILE;
        // Of the class loader: as a module, this class would look into its own jar only, and the library has another.
        ClassLoader loader = NativeLibrary.class.getClassLoader();
        if (loader.getResource(name) == null) {
            tried.add("resource " + name + ": in no jar");
            return false;
        }
        try {
            Path folder = Files.createTempDirectory("hllm4j-"); // readable and writable by this user only
            folder.toFile().deleteOnExit(); // deleted in reverse order: first the files, then their folder
            for (String file : List.of(FILE, PLUGIN)) {
                try (InputStream in = loader.getResourceAsStream(place + file)) {
                    if (in != null) {
                        folder.resolve(file).toFile().deleteOnExit();
                        Files.copy(in, folder.resolve(file));
                    }
                }
            }
            return tryFile(folder.resolve(FILE), "resource " + name + ", extracted to", tried);
        } catch (IOException e) {
            tried.add("resource " + name + ": cannot extract it: " + e);
            return false;
        }
    }

    private static boolean tryCheckout(List<String> tried) {
        for (Path folder = Path.of("").toAbsolutePath(); folder != null; folder = folder.getParent()) {
            // The header identifies a checkout: a library that happens to lie in some build folder is not loaded.
            if (Files.isRegularFile(folder.resolve("native/include/hllm.h"))) {
                return tryFile(folder.resolve("build").resolve(FILE), "source checkout", tried);
            }
        }
        tried.add("source checkout: none around " + Path.of("").toAbsolutePath());
        return false;
    }

    private static String arch() {
        String arch = System.getProperty("os.arch");
        return arch.equals("amd64") ? "x86_64" : arch;
    }

    private static String platform() {
        return System.getProperty("os.name") + " " + arch() + ", JDK " + Runtime.version();
    }
}
