package org.hllm4j.perf;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.hllm4j.HllmException;

/** Another library's {@code cblas_sgemm} (32-bit integers), opened at run time. */
final class Blas {
    private static final List<String> FILES =
            List.of("libopenblas.so.0", "libblis.so.4", "libmkl_rt.so.2", "libmkl_rt.so.3");
    private static final List<String> FOLDERS = List.of(
            "openblas-pthread", "openblas-openmp", "openblas-serial", "blis-openmp", "blis-pthread", "blis-serial", "");
    private static final int ROW_MAJOR = 101;
    private static final int NO_TRANSPOSE = 111;
    private static final int TRANSPOSE = 112;
    private static final Linker LINKER = Linker.nativeLinker();
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG;

    private final String name;
    private final MethodHandle sgemm;

    private Blas(String name, MethodHandle sgemm) {
        this.name = name;
        this.sgemm = sgemm;
    }

    /** Those given, which must load, and the usual ones, which may be there. */
    static List<Blas> find(List<Path> given, int threads) {
        unsetEnvironment("OPENBLAS_CORETYPE"); // would choose kernels of an older processor
        List<Blas> found = new ArrayList<>();
        for (Path path : given) {
            if (!Files.isRegularFile(path)) {
                throw new HllmException("--blas " + path + ": no such file");
            }
            found.add(open(path.toAbsolutePath().toString(), threads));
        }
        Set<String> places = new LinkedHashSet<>();
        for (String folder : FOLDERS) {
            for (String file : FILES) {
                String arch = System.getProperty("os.arch").equals("amd64") ? "x86_64" : "aarch64";
                Path path = Path.of("/usr/lib", arch + "-linux-gnu", folder, file);
                if (Files.exists(path)) {
                    places.add(real(path));
                }
            }
        }
        places.removeAll(given.stream().map(Blas::real).toList());
        places.forEach(place -> found.add(open(place, threads)));
        return found;
    }

    private static String real(Path path) {
        try {
            return path.toRealPath().toString();
        } catch (IOException e) {
            return path.toAbsolutePath().toString();
        }
    }

    private static Blas open(String place, int threads) {
        SymbolLookup library;
        try {
            library = SymbolLookup.libraryLookup(Path.of(place), Arena.global());
        } catch (IllegalArgumentException e) {
            throw new HllmException(place + ": cannot be loaded: " + e.getMessage(), e);
        }
        MemorySegment symbol = library.find("cblas_sgemm")
                .orElseThrow(() -> new HllmException(place + ": there is no cblas_sgemm in it"));
        // Each library has its own name for the size of its team.
        setThreads(library, "openblas_set_num_threads", INT, threads);
        setThreads(library, "MKL_Set_Num_Threads", INT, threads);
        setThreads(library, "bli_thread_set_num_threads", LONG, threads);
        MemoryLayout[] arguments =
                new MemoryLayout[14]; // order, transposes, sizes; alpha, a, b, beta, c with their strides
        Arrays.fill(arguments, INT);
        arguments[6] = arguments[11] = FLOAT;
        arguments[7] = arguments[9] = arguments[12] = ValueLayout.ADDRESS;
        MethodHandle sgemm = LINKER.downcallHandle(symbol, FunctionDescriptor.ofVoid(arguments));
        Path path = Path.of(place);
        return new Blas(path.getParent().getFileName() + "/" + path.getFileName(), sgemm);
    }

    private static void setThreads(SymbolLookup library, String function, ValueLayout type, int threads) {
        library.find(function).ifPresent(symbol -> {
            try { // invoke: an int is widened where the function takes a long
                LINKER.downcallHandle(symbol, FunctionDescriptor.ofVoid(type)).invoke(threads);
            } catch (Throwable e) {
                throw new IllegalStateException(function, e);
            }
        });
    }

    private static void unsetEnvironment(String variable) {
        try (Arena arena = Arena.ofConfined()) {
            MethodHandle unset = LINKER.downcallHandle(
                    LINKER.defaultLookup().find("unsetenv").orElseThrow(),
                    FunctionDescriptor.of(INT, ValueLayout.ADDRESS));
            int status = (int) unset.invokeExact(arena.allocateFrom(variable));
            assert status == 0;
        } catch (Throwable e) {
            throw new IllegalStateException("unsetenv", e);
        }
    }

    String name() {
        return name;
    }

    /** c [m, n] = x [m, k] w [n, k]^T. */
    void multiply(Work.Gemm gemm, MemorySegment c, MemorySegment x, MemorySegment w) {
        int m = (int) gemm.m();
        int n = (int) gemm.n();
        int k = (int) gemm.k();
        try {
            sgemm.invokeExact(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, m, n, k, 1f, x, k, w, k, 0f, c, n);
        } catch (Throwable e) {
            throw new IllegalStateException(name, e);
        }
    }
}
