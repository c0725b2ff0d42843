package org.hllm4j.http;

import java.util.Map;

/** Why a request is not answered. */
final class Refusal extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final int status;
    private final String field; // null: the request as a whole
    private final transient Map<String, String> headers;

    private Refusal(int status, String field, String message, Map<String, String> headers) {
        super(message, null, false, false);
        this.status = status;
        this.field = field;
        this.headers = headers;
    }

    Refusal(int status, String message) {
        this(status, null, message, Map.of());
    }

    /** @param field of the body or the query, as {@code events[2].item} */
    static Refusal ofField(int status, String field, String message) {
        return new Refusal(status, field, message, Map.of());
    }

    static Refusal busy(String message) {
        return new Refusal(503, null, message, Map.of("Retry-After", "1"));
    }

    static Refusal withHeader(int status, String message, String name, String value) {
        return new Refusal(status, null, message, Map.of(name, value));
    }

    Reply reply() {
        return Reply.json(
                        status,
                        Map.of(
                                "error",
                                field == null
                                        ? Reply.fields("status", status, "message", getMessage())
                                        : Reply.fields("status", status, "field", field, "message", getMessage())))
                .with(headers);
    }
}
