package org.edgestill

/**
 * The functions of `native/include/edgestill.h`, as `edgestill_jni.cpp` has them; [Edgestill] is what to use.
 *
 * Texts cross as UTF-8 bytes: JNI's own strings are in a "modified UTF-8" that tears emoji apart. A failure is an
 * [EdgestillException]. Nothing here guards against a session that is closed or used twice at a time: that is
 * [Edgestill]'s work.
 */
internal object EdgestillNative {
    init {
        System.loadLibrary("edgestill_jni")
    }

    /** Gets each token; false ends the answer. Kept by name in proguard-rules.pro, as C++ looks it up. */
    fun interface OnToken {
        fun onToken(token: Int, text: ByteArray): Boolean
    }

    @JvmStatic external fun abiVersion(): Int

    @JvmStatic external fun open(
        path: ByteArray,
        artifact: ByteArray?,
        threads: Int,
        contextLength: Int,
        verify: Boolean,
        kvPrecision: ByteArray?,
    ): Long

    @JvmStatic external fun close(session: Long)

    @JvmStatic external fun tokenize(session: Long, text: ByteArray, addSpecial: Boolean): IntArray

    @JvmStatic external fun applyTemplate(session: Long, messages: ByteArray): ByteArray

    @JvmStatic external fun generate(
        session: Long,
        ids: IntArray,
        maxNewTokens: Int,
        ignoreEos: Boolean,
        temperature: Float,
        topK: Int,
        topP: Float,
        minP: Float,
        seed: Long,
        stop: Array<ByteArray>,
        onToken: OnToken,
    )

    @JvmStatic external fun answer(session: Long): IntArray

    @JvmStatic external fun cancel(session: Long)

    @JvmStatic external fun reset(session: Long)

    @JvmStatic external fun saveState(session: Long, path: ByteArray)

    @JvmStatic external fun loadState(session: Long, path: ByteArray)

    @JvmStatic external fun statistics(session: Long): ByteArray

    @JvmStatic external fun bench(session: Long, promptTokens: Int, newTokens: Int, repetitions: Int): ByteArray

    @JvmStatic external fun selftest(session: Long): ByteArray
}
