/**
 * The engine behind HTTP and JSON, on the JDK's own server: one virtual thread a request, which reads and checks, asks the
 * engine, waits, and writes.
 */
package org.hllm4j.http;
