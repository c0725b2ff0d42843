package org.hllm4j.cli;

import java.util.Locale;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.TypeConversionException;

/** A number of bytes, with k, m or g for powers of 1024. */
final class Size implements ITypeConverter<Long> {
    @Override
    public Long convert(String text) {
        if (!text.toLowerCase(Locale.ROOT).matches("[0-9]{1,15}|[0-9]{1,9}[kmg]")) {
            throw new TypeConversionException("\"" + text + "\" is no size; expected bytes, or as 512m or 8g");
        }
        char last = Character.toLowerCase(text.charAt(text.length() - 1));
        int shift = 10 * ("kmg".indexOf(last) + 1);
        return Long.parseLong(text.replaceFirst("[A-Za-z]$", "")) << shift;
    }
}
