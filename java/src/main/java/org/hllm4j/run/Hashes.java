package org.hllm4j.run;

import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.zip.CRC32C;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.engine.Tensor;
import org.hllm4j.nn.Parameter;
import org.hllm4j.nn.Parameters;

/** SHA-256 in lower-case hexadecimal. */
public final class Hashes {
    private Hashes() {}

    public static String of(byte[] bytes) {
        return HexFormat.of().formatHex(digest().digest(bytes));
    }

    public static String of(Path file) {
        MessageDigest digest = digest();
        try (InputStream in = Files.newInputStream(file)) {
            byte[] buffer = new byte[1 << 20];
            for (int n; (n = in.read(buffer)) > 0; ) {
                digest.update(buffer, 0, n);
            }
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be read: " + e, e);
        }
        return HexFormat.of().formatHex(digest.digest());
    }

    /** Of all item ids in row order: vectors belong to a catalogue only if these agree. */
    public static String of(Catalogue catalogue) {
        MessageDigest digest = digest();
        for (int row = 0; row < catalogue.size(); row++) {
            digest.update(catalogue.id(row).getBytes(StandardCharsets.UTF_8));
            digest.update((byte) 0);
        }
        return HexFormat.of().formatHex(digest.digest());
    }

    /**
     * Of a model's values that no training changes, as float32: of each parameter's name and checksum, which is a matter of
     * seconds for billions of values.
     */
    public static String ofFrozen(Parameters parameters) {
        MessageDigest digest = digest();
        ByteBuffer chunk = ByteBuffer.allocateDirect(1 << 20).order(ByteOrder.nativeOrder());
        for (Parameter parameter : parameters.all()) {
            if (!parameter.trainable()) {
                CRC32C sum = new CRC32C();
                parameters.read(parameter.bare(), values -> update(sum, values, chunk));
                digest.update((parameter.name() + "=" + sum.getValue() + "\n").getBytes(StandardCharsets.UTF_8));
            }
        }
        return HexFormat.of().formatHex(digest.digest());
    }

    private static void update(CRC32C sum, Tensor values, ByteBuffer chunk) {
        Tensor flat = values.reshape(values.elements());
        int most = chunk.capacity() / Float.BYTES;
        for (long at = 0; at < flat.elements(); at += most) {
            int count = (int) Math.min(most, flat.elements() - at);
            chunk.clear().limit(count * Float.BYTES);
            flat.read(at, chunk.asFloatBuffer());
            sum.update(chunk);
        }
    }

    private static MessageDigest digest() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }
}
