package org.hllm4j.bindings;

import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.GroupLayout;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.PaddingLayout;
import java.lang.foreign.SequenceLayout;
import java.lang.foreign.ValueLayout;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * What a header in the style of hllm.h declares, in terms of bytes: read from its text, independently of jextract, and
 * comparable with the generated classes. A declaration that is not understood is a finding, never skipped.
 *
 * @param functions name to signature, for example {@code int(pointer,long)}
 * @param structs name to layout, for example {@code 0 int struct_size; 8 pointer buffer; size 16}
 * @param constants enum constants and numeric macros
 * @param unreadable declarations that are none of these
 */
record Header(
        Map<String, String> functions,
        Map<String, String> structs,
        Map<String, Long> constants,
        List<String> unreadable) {

    private static final Pattern MACRO = Pattern.compile("(?m)^#define\\s+(\\w+)\\s+(-?\\d+)\\s*$");
    private static final Pattern FUNCTION = Pattern.compile("HLLM_API (.+?)(\\w+) ?\\((.*)\\)");
    private static final Pattern OPAQUE = Pattern.compile("typedef struct (\\w+) \\1");
    private static final Pattern STRUCT = Pattern.compile("typedef struct (\\w+) \\{(.*)\\} \\1");
    private static final Pattern ENUM = Pattern.compile("enum \\w+ \\{(.*)\\}");
    private static final Pattern VARIABLE = Pattern.compile("(.*?)(\\w+)(?:\\[(\\d+)\\])?");

    private static final Map<String, Integer> SIZES =
            Map.of("byte", 1, "int", 4, "float", 4, "long", 8, "double", 8, "pointer", 8);

    static Header parse(String text) {
        Header header = new Header(new TreeMap<>(), new TreeMap<>(), new TreeMap<>(), new ArrayList<>());
        String code = text.replaceAll("(?s)/\\*.*?\\*/", " ").replaceAll("//.*", "");
        MACRO.matcher(code).results().forEach(m -> header.constants.put(m.group(1), Long.valueOf(m.group(2))));
        code = code.replaceAll("(?m)^\\s*#.*$", "").replaceAll("\\s+", " ");
        code = code.replaceAll("extern \"C\" \\{(.*)\\}", "$1");
        for (String statement : statements(code)) {
            try {
                header.read(statement);
            } catch (IllegalArgumentException e) {
                header.unreadable.add(statement + " (" + e.getMessage() + ")");
            }
        }
        return header;
    }

    /** Splits at the semicolons outside braces. */
    private static List<String> statements(String code) {
        List<String> statements = new ArrayList<>();
        int depth = 0;
        int begin = 0;
        for (int i = 0; i < code.length(); i++) {
            char c = code.charAt(i);
            depth += c == '{' ? 1 : c == '}' ? -1 : 0;
            if (depth == 0 && c == ';') {
                statements.add(code.substring(begin, i).strip());
                begin = i + 1;
            }
        }
        String rest = code.substring(begin).strip();
        if (!rest.isEmpty()) {
            statements.add(rest);
        }
        return statements;
    }

    private void read(String statement) {
        Matcher m;
        if ((m = OPAQUE.matcher(statement)).matches()) {
            return; // crosses as a pointer
        }
        if ((m = FUNCTION.matcher(statement)).matches()) {
            String parameters = m.group(3).strip().equals("void")
                    ? ""
                    : Stream.of(m.group(3).split(",")).map(p -> variable(p)[0]).collect(Collectors.joining(","));
            functions.put(m.group(2), type(m.group(1)) + "(" + parameters + ")");
        } else if ((m = STRUCT.matcher(statement)).matches()) {
            structs.put(m.group(1), struct(m.group(2).split(";")));
        } else if ((m = ENUM.matcher(statement)).matches()) {
            long next = 0;
            for (String constant : m.group(1).split(",")) {
                String[] nameAndValue = constant.split("=");
                next = nameAndValue.length == 2 ? Long.parseLong(nameAndValue[1].strip()) : next;
                constants.put(nameAndValue[0].strip(), next++);
            }
        } else {
            throw new IllegalArgumentException("not a declaration that the bindings know");
        }
    }

    /** Layout by C's rule: every field at the next multiple of its size. */
    private static String struct(String[] fields) {
        StringBuilder layout = new StringBuilder();
        int offset = 0;
        int alignment = 1;
        for (String field : fields) {
            if (field.isBlank()) {
                continue;
            }
            String[] variable = variable(field);
            String[] elementAndCount = variable[0].replace("]", "").split("\\[");
            int size = SIZES.get(elementAndCount[0]);
            int count = elementAndCount.length == 2 ? Integer.parseInt(elementAndCount[1]) : 1;
            offset = Math.ceilDiv(offset, size) * size;
            layout.append(offset + " " + variable[0] + " " + variable[1] + "; ");
            offset += size * count;
            alignment = Math.max(alignment, size);
        }
        return layout + "size " + Math.ceilDiv(offset, alignment) * alignment;
    }

    /** Type and name of a field or parameter. */
    private static String[] variable(String declaration) {
        Matcher m = VARIABLE.matcher(declaration.strip());
        if (!m.matches()) {
            throw new IllegalArgumentException("unknown declarator " + declaration);
        }
        return new String[] {type(m.group(1)) + (m.group(3) == null ? "" : "[" + m.group(3) + "]"), m.group(2)};
    }

    private static String type(String c) {
        if (c.contains("*")) {
            return "pointer";
        }
        return switch (c.replace("const ", "").strip()) {
            case "void" -> "void";
            case "int8_t", "uint8_t" -> "byte";
            case "int32_t", "uint32_t" -> "int";
            case "int64_t", "uint64_t" -> "long";
            case "float" -> "float";
            case "double" -> "double";
            default -> throw new IllegalArgumentException("unknown type " + c.strip());
        };
    }

    // ---- Against the generated classes ----

    /** Every difference to the generated classes; empty if they match. */
    List<String> drift() {
        List<String> drift = new ArrayList<>();
        unreadable.forEach(declaration -> drift.add("cannot be bound: " + declaration));
        Map<String, String> boundFunctions = new TreeMap<>();
        Map<String, Long> boundConstants = new TreeMap<>();
        for (Method method : Hllm.class.getDeclaredMethods()) {
            if (method.getName().endsWith("$descriptor")) {
                boundFunctions.put(
                        method.getName().replace("$descriptor", ""), signature((FunctionDescriptor) call(method)));
            } else if (method.getName().startsWith("HLLM_")) {
                boundConstants.put(method.getName(), ((Number) call(method)).longValue());
            }
        }
        compare("function", functions, boundFunctions, drift);
        compare("constant", constants, boundConstants, drift);
        Map<String, String> boundStructs = new TreeMap<>();
        for (String struct : structs.keySet()) {
            try {
                Method layout = Class.forName("org.hllm4j.bindings." + struct).getMethod("layout");
                boundStructs.put(struct, layout((GroupLayout) call(layout)));
            } catch (ReflectiveOperationException e) {
                continue; // reported as unbound
            }
        }
        compare("struct", structs, boundStructs, drift);
        return drift;
    }

    private static <T> void compare(String kind, Map<String, T> header, Map<String, T> bound, List<String> drift) {
        header.forEach((name, declared) -> {
            if (!bound.containsKey(name)) {
                drift.add(kind + " " + name + " is unbound");
            } else if (!declared.equals(bound.get(name))) {
                drift.add(kind + " " + name + " is " + declared + ", but bound as " + bound.get(name));
            }
        });
        bound.keySet().stream()
                .filter(name -> !header.containsKey(name))
                .forEach(name -> drift.add(kind + " " + name + " is bound, but no longer declared"));
    }

    private static Object call(Method method) {
        try {
            return method.invoke(null);
        } catch (ReflectiveOperationException e) {
            // A descriptor needs the loaded library: its holder looks the symbol up.
            throw new AssertionError("the library does not have " + method.getName(), e);
        }
    }

    private static String signature(FunctionDescriptor descriptor) {
        return descriptor.returnLayout().map(Header::type).orElse("void")
                + descriptor.argumentLayouts().stream().map(Header::type).collect(Collectors.joining(",", "(", ")"));
    }

    private static String layout(GroupLayout struct) {
        StringBuilder text = new StringBuilder();
        long offset = 0;
        for (MemoryLayout member : struct.memberLayouts()) {
            if (!(member instanceof PaddingLayout)) {
                text.append(offset + " " + type(member) + " " + member.name().orElseThrow() + "; ");
            }
            offset += member.byteSize();
        }
        return text + "size " + struct.byteSize();
    }

    private static String type(MemoryLayout layout) {
        return switch (layout) {
            case ValueLayout value ->
                value.carrier() == MemorySegment.class
                        ? "pointer"
                        : value.carrier().getName();
            case SequenceLayout array -> type(array.elementLayout()) + "[" + array.elementCount() + "]";
            default -> layout.toString();
        };
    }
}
