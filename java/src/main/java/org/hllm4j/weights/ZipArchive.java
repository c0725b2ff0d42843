package org.hllm4j.weights;

import java.lang.foreign.MemorySegment;
import java.util.LinkedHashMap;
import java.util.Map;
import org.hllm4j.HllmException;

/**
 * The entries of a mapped zip file whose entries are stored, not compressed. Only the central directory is trusted:
 * the sizes in local headers are zero where a data descriptor follows, as torch.save writes them.
 */
final class ZipArchive {
    private static final int END = 0x06054b50;
    private static final int END64 = 0x06064b50;
    private static final int END64_LOCATOR = 0x07064b50;
    private static final int CENTRAL = 0x02014b50;
    static final int LOCAL = 0x04034b50;
    private static final int END_BYTES = 22;
    private static final int LOCATOR_BYTES = 20;
    private static final long UNKNOWN = 0xffff_ffffL;

    private final MemorySegment bytes;
    private final String origin;
    private final Map<String, MemorySegment> entries = new LinkedHashMap<>();

    ZipArchive(MemorySegment bytes, String origin) {
        this.bytes = bytes;
        this.origin = origin;
        readDirectory();
    }

    /** Contents by entry name. */
    Map<String, MemorySegment> entries() {
        return entries;
    }

    private void readDirectory() {
        long end = findEnd();
        ByteCursor cursor = at(end + 10, "end of directory");
        long count = cursor.u16("number of entries");
        cursor.u32("size of the directory");
        long directory = cursor.u32("place of the directory");
        if (count == 0xffff || directory == UNKNOWN) {
            cursor = at(end - LOCATOR_BYTES, "zip64 locator");
            expect(cursor, END64_LOCATOR, "zip64 locator");
            cursor.u32("zip64 disk");
            cursor = at(cursor.i64("place of the zip64 end"), "zip64 end of directory");
            expect(cursor, END64, "zip64 end of directory");
            cursor = at(cursor.position() + 28, "zip64 end of directory");
            count = cursor.i64("number of entries");
            cursor.i64("size of the directory");
            directory = cursor.i64("place of the directory");
        }
        cursor = at(directory, "directory");
        for (long i = 0; i < count; i++) {
            readEntry(cursor);
        }
    }

    private void readEntry(ByteCursor cursor) {
        expect(cursor, CENTRAL, "directory entry");
        cursor.i32("versions");
        int flags = cursor.u16("flags");
        int method = cursor.u16("method");
        cursor.i64("time and checksum");
        long packed = cursor.u32("packed size");
        long size = cursor.u32("size");
        int nameLength = cursor.u16("name length");
        int extraLength = cursor.u16("extra length");
        int commentLength = cursor.u16("comment length");
        cursor.i64("attributes");
        long local = cursor.u32("place of the entry");
        String name = cursor.utf8(nameLength, "entry name");
        long extraEnd = cursor.position() + extraLength;
        while (cursor.position() + 4 <= extraEnd) {
            int id = cursor.u16("extra field");
            long next = cursor.u16("extra field length") + cursor.position();
            if (id == 1) {
                // zip64: holds only the values that do not fit above, in this order
                size = size == UNKNOWN ? cursor.i64("zip64 size") : size;
                packed = packed == UNKNOWN ? cursor.i64("zip64 packed size") : packed;
                local = local == UNKNOWN ? cursor.i64("zip64 place of the entry") : local;
            }
            cursor.seek(next, "extra field");
        }
        cursor.seek(extraEnd + commentLength, "next directory entry");
        if ((flags & 1) != 0 || method != 0 || packed != size) {
            throw new HllmException(origin + ": zip entry '" + name
                    + "' is compressed or encrypted, expected a stored entry as torch.save writes it");
        }
        ByteCursor header = at(local, "zip entry '" + name + "'");
        expect(header, LOCAL, "local header of '" + name + "'");
        header.seek(local + 26, "local header of '" + name + "'");
        long data = header.u16("name length") + header.u16("extra length") + header.position();
        if (size < 0 || data > bytes.byteSize() - size) {
            throw new HllmException(origin + ": zip entry '" + name + "' of " + Long.toUnsignedString(size)
                    + " bytes reaches past the end of the file; the file is damaged");
        }
        if (entries.put(name, bytes.asSlice(data, size)) != null) {
            throw new HllmException(origin + ": zip entry '" + name + "' is there twice");
        }
    }

    private long findEnd() {
        long last = bytes.byteSize() - END_BYTES;
        for (long at = last; at >= Math.max(0, last - 0xffff); at--) {
            ByteCursor cursor = at(at, "end of directory");
            if (cursor.i32("signature") == END
                    && cursor.seek(at + 20, "comment length").u16("comment length") == last - at) {
                return at;
            }
        }
        throw new HllmException(origin + ": the zip directory at the end is missing; the file is truncated");
    }

    private ByteCursor at(long position, String what) {
        return new ByteCursor(bytes, origin).seek(position, what);
    }

    private void expect(ByteCursor cursor, int signature, String what) {
        long at = cursor.position();
        if (cursor.i32(what) != signature) {
            throw new HllmException(origin + ": no " + what + " at byte " + at + "; the file is damaged");
        }
    }
}
