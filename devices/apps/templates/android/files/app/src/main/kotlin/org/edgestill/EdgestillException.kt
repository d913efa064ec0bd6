package org.edgestill

/** What failed: [status] is an `es_status` of edgestill.h, the message its one line of text. */
class EdgestillException(val status: Int, message: String) : Exception(message) {
    /** As C++ makes it: the text is UTF-8. */
    @Suppress("unused")
    constructor(status: Int, message: ByteArray) : this(status, String(message, Charsets.UTF_8))

    companion object {
        const val USAGE = 1
        const val NOT_FOUND = 2
        const val CHANGED = 3
        const val VERSION = 4
        const val MEMORY = 5
        const val CONTEXT = 6
        const val IO = 7
        const val CANCELLED = 8
        const val MISMATCH = 9
        const val INTERNAL = 11
    }
}
