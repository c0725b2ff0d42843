/** From an item's fields to its text, and from the text to token ids. */
package org.hllm4j.text;
