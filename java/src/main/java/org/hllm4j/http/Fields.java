package org.hllm4j.http;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** The fields of a JSON object, or of a query, read one by one and strictly: whatever is not as expected is refused by name. */
final class Fields {
    private static final JsonMapper JSON = JsonMapper.builder()
            .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();
    static final int LONGEST_ID = 512; // characters

    private final JsonNode object;
    private final String path; // of the object, with a dot at its end; empty for the whole
    private final boolean query; // then integers are texts of digits
    private final Set<String> known = new HashSet<>();

    private Fields(JsonNode object, String path, boolean query) {
        this.object = object;
        this.path = path;
        this.query = query;
    }

    static Fields ofJson(byte[] body) {
        JsonNode node;
        try {
            node = JSON.readTree(body);
        } catch (JsonProcessingException e) {
            String where = e.getLocation() == null
                    ? ""
                    : " at line " + e.getLocation().getLineNr() + ", column "
                            + e.getLocation().getColumnNr();
            throw new Refusal(400, "the body is not JSON: " + e.getOriginalMessage() + where);
        } catch (IOException e) {
            throw new Refusal(400, "the body is not JSON: " + e.getMessage());
        }
        if (!node.isObject()) {
            throw new Refusal(400, "the body is " + name(node) + "; expected a JSON object {...}");
        }
        return new Fields(node, "", false);
    }

    /** @param query decoded names and values */
    static Fields ofQuery(Map<String, String> query) {
        ObjectNode node = JsonNodeFactory.instance.objectNode();
        query.forEach(node::put);
        return new Fields(node, "", true);
    }

    private JsonNode get(String name) {
        known.add(name);
        JsonNode value = object.get(name);
        return value == null || value.isNull() ? null : value;
    }

    /** An id or a name: 1 to 512 characters; null where the field is absent. */
    String id(String name) {
        JsonNode value = get(name);
        return value == null ? null : id(value, path + name);
    }

    /** A text of any length; the default where the field is absent. */
    String text(String name, String otherwise) {
        JsonNode value = get(name);
        if (value != null && !value.isTextual()) {
            throw wrong(path + name, "a string", name(value));
        }
        return value == null ? otherwise : value.textValue();
    }

    private static String id(JsonNode value, String at) {
        if (!value.isTextual()) {
            throw wrong(at, "a string", name(value));
        }
        int length = value.textValue().length();
        if (length < 1 || length > LONGEST_ID) {
            throw wrong(at, "1 to " + LONGEST_ID + " characters", length == 0 ? "none" : "" + length);
        }
        return value.textValue();
    }

    /** A whole number within bounds; the default where the field is absent. In a query it is a text of digits. */
    long integer(String name, long otherwise, long least, long most) {
        JsonNode value = get(name);
        if (value == null) {
            return otherwise;
        }
        String expected = "a whole number from " + least + " to " + most;
        long number;
        if (value.isIntegralNumber() && value.canConvertToLong()) {
            number = value.longValue();
        } else if (query && value.textValue().matches("-?[0-9]{1,18}")) {
            number = Long.parseLong(value.textValue());
        } else {
            throw wrong(path + name, expected, value.isNumber() ? "another number" : name(value));
        }
        if (number < least || number > most) {
            throw wrong(path + name, expected, "" + number);
        }
        return number;
    }

    /** A list of ids; null where the field is absent. */
    List<String> ids(String name, int least, int most) {
        JsonNode list = list(name, least, most);
        if (list == null) {
            return null;
        }
        List<String> ids = new ArrayList<>();
        for (JsonNode entry : list) {
            ids.add(id(entry, path + name + "[" + ids.size() + "]"));
        }
        return ids;
    }

    /** A list of objects; it must be there. */
    List<Fields> objects(String name, int least, int most) {
        JsonNode list = required(list(name, least, most), name, "a list of objects");
        List<Fields> objects = new ArrayList<>();
        for (JsonNode entry : list) {
            String at = path + name + "[" + objects.size() + "]";
            if (!entry.isObject()) {
                throw wrong(at, "an object", name(entry));
            }
            objects.add(new Fields(entry, at + ".", false));
        }
        return objects;
    }

    /** An object of texts; it must be there. */
    Map<String, String> texts(String name) {
        JsonNode value = required(get(name), name, "an object of strings");
        if (!value.isObject()) {
            throw wrong(path + name, "an object of strings", name(value));
        }
        Fields inner = new Fields(value, path + name + ".", false);
        Map<String, String> texts = new LinkedHashMap<>();
        value.fieldNames().forEachRemaining(key -> texts.put(key, inner.text(key, "")));
        return texts;
    }

    private JsonNode list(String name, int least, int most) {
        JsonNode value = get(name);
        if (value != null && !value.isArray()) {
            throw wrong(path + name, "a list", name(value));
        }
        if (value != null && (value.size() < least || value.size() > most)) {
            throw wrong(path + name, least + " to " + most + " entries", "" + value.size());
        }
        return value;
    }

    /** The value, which must be there. */
    <T> T required(T value, String name, String expected) {
        if (value == null) {
            throw Refusal.ofField(400, path + name, "\"" + path + name + "\" is missing; expected " + expected);
        }
        return value;
    }

    /** Refuses fields that nobody asked for: they may be misspelt. */
    void noOthers() {
        object.fieldNames().forEachRemaining(name -> {
            if (!known.contains(name)) {
                String which = known.isEmpty()
                        ? "none"
                        : String.join(", ", known.stream().sorted().toList());
                throw Refusal.ofField(400, path + name, "\"" + path + name + "\" is not known here; expected " + which);
            }
        });
    }

    /** What a field is called in messages. */
    String at(String name) {
        return path + name;
    }

    private static Refusal wrong(String at, String expected, String found) {
        return Refusal.ofField(400, at, "\"" + at + "\": expected " + expected + ", found " + found);
    }

    private static String name(JsonNode value) {
        return switch (value.getNodeType()) {
            case ARRAY -> "a list";
            case OBJECT -> "an object";
            case STRING -> "a string";
            case NUMBER -> "a number";
            case BOOLEAN -> "true or false";
            case NULL -> "null";
            case BINARY, MISSING, POJO -> "nothing";
        };
    }
}
