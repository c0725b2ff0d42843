package org.hllm4j.bindings;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.lang.foreign.SymbolLookup;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The generated classes bind exactly what hllm.h declares; where they do not, run bindings/regenerate. */
class BindingsMatchHeaderTest {
    private static String text;

    @BeforeAll
    static void loadLibraryAndHeader() throws IOException {
        String library = System.getProperty("hllm.library", "");
        assumeTrue(!library.isEmpty(), "skipped: the system property hllm.library does not name libhllm.so");
        System.load(library);
        text = Files.readString(header());
    }

    private static Path header() {
        Path folder = Path.of("").toAbsolutePath();
        while (folder != null && !Files.exists(folder.resolve("native/include/hllm.h"))) {
            folder = folder.getParent();
        }
        return folder.resolve("native/include/hllm.h");
    }

    @Test
    void everyDeclarationIsBoundWithItsSignature() {
        Header header = Header.parse(text);
        assertEquals(List.of(), header.drift());
        // Nothing was overlooked by the reader of the header itself: counted by the words that start a declaration.
        assertEquals(text.split("\nHLLM_API ").length - 1, header.functions().size());
        assertEquals(
                text.split("\ntypedef struct \\w+ \\{").length - 1,
                header.structs().size());
        assertTrue(header.constants().size() > 10, () -> header.constants().toString());
    }

    @Test
    void everyFunctionResolvesInTheLibrary() {
        SymbolLookup lookup = SymbolLookup.loaderLookup();
        List<String> missing = Header.parse(text).functions().keySet().stream()
                .filter(name -> lookup.find(name).isEmpty())
                .toList();
        assertEquals(List.of(), missing);
    }

    /** The comparison can fail: each change of the header is reported, and nothing else. */
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "uint32_t hllm_abi_version(void)   | uint64_t hllm_abi_version(void)       | function hllm_abi_version is long()",
                "hllm_threads_set(int32_t count)   | hllm_threads_set(int64_t count)       | function hllm_threads_set is int(long)",
                "hllm_threads_set(int32_t count)   | hllm_threads_set(int32_t a, float b)  | function hllm_threads_set is int(int,float)",
                "hllm_threads_get(void)            | hllm_threads_now(void)                | function hllm_threads_now is unbound",
                "hllm_plan *plan;                  | int32_t plan;                         | struct hllm_attention_backward_args is",
                "int32_t reserved; /* 0 */         | int64_t reserved;                     | struct hllm_tensor is",
                "float beta1;                      | float beta0;                          | struct hllm_adamw_args is",
                "int64_t shape[4];                 | int64_t shape[5];                     | struct hllm_tensor is",
                "HLLM_UNSUPPORTED = 3              | HLLM_UNSUPPORTED = 7                  | constant HLLM_UNSUPPORTED is 7",
                "HLLM_I32 = 2                      | HLLM_I32 = 2, HLLM_I8 = 3             | constant HLLM_I8 is unbound",
                "#define HLLM_ABI_MAJOR 1          | #define HLLM_ABI_MAJOR 2              | constant HLLM_ABI_MAJOR is 2",
                "HLLM_API uint32_t hllm_abi_version(void) | static inline int32_t hllm_f(void) | cannot be bound: static inline",
                "HLLM_API uint32_t hllm_abi_version(void) | HLLM_API long hllm_abi_version(void) | unknown type long",
                "typedef struct hllm_plan hllm_plan; | typedef struct hllm_new { float x; } hllm_new; | struct hllm_new is unbound",
            })
    void aChangedHeaderIsReported(String original, String changed, String report) {
        String doctored = text.replaceFirst(java.util.regex.Pattern.quote(original), changed);
        assertNotEquals(text, doctored, "the header has no " + original);
        List<String> drift = Header.parse(doctored).drift();
        assertTrue(drift.stream().anyMatch(line -> line.contains(report)), () -> drift.toString());
        // A renamed declaration is reported under both names.
        assertTrue(drift.size() <= 2, () -> drift.toString());
    }

    @Test
    void aRemovedDeclarationIsReported() {
        String doctored = text.replaceFirst("HLLM_API int32_t hllm_clamp\\([^;]*;", "");
        assertEquals(
                List.of("function hllm_clamp is bound, but no longer declared"),
                Header.parse(doctored).drift());
        Stream.of("", "int")
                .forEach(nothing -> assertTrue(Header.parse(nothing).drift().size() > 50));
    }
}
